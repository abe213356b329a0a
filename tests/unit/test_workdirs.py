"""A workdir remembers its config: what may change when a run goes on, and what an evaluation reads."""

import json
import pathlib

import ml_collections
import pytest

import data_pipelines
from configs import dynamic_k400, reskd_minik, supervised_actnet, supervised_folder, supervised_minik
from configs.recipes import base
from effvid_jax import cli, evaluate
from effvid_jax.errors import UserError
from effvid_jax.start import runs, workdirs

MAY_CHANGE = {
    "name", "note", "data.root", "data.train_list", "data.val_list", "data.classes_file", "data.num_threads",
    "data.num_workers", "data.prefetch", "data.cache", "data.cache_gib", "data.max_broken_share",
    "data.eval_batch_size", "train.log_every_steps", "train.eval_every_epochs",
    "train.checkpoint_every_steps", "train.keep", "train.min_reference_ratio", "train.num_epochs",
    "init.step", "bench.seconds", "data.views_per_pass", "model.remat", "data.train_root", "data.val_root",
    *(f"train.validation.{name}" for name in base.defaults().train.validation),
    "bench.batch_size", "bench.threads", "bench.workers", "bench.resolutions", "export.format",
    "train.best", "train.patience", "train.min_change", "train.wandb",
    "train.fsdp"}
# An evaluation of a list: what changes no number, and what changes which number it is.
NO_DIFFERENCE = {
    "name", "note", "data.num_threads", "data.num_workers", "data.prefetch", "data.cache", "data.cache_gib",
    "data.max_broken_share", "data.eval_batch_size", "data.views_per_pass"}
OTHER_NUMBER = {
    "data.root", "data.val_root", "data.val_list", "data.classes_file", "data.num_classes",
    "data.multi_label", "data.source", "data.list_format", "data.sampling", "data.num_frames",
    "data.frame_interval", "data.test_clips", "data.twice_sample", "data.test_short_side",
    "data.test_crop", "data.test_crop_size", "data.quality",
    "init.step", "method.name"}


def used(folder, config, step=6, class_names=("a", "b"), **files):
    """A workdir with a checkpoint, as far as configs are concerned."""
    meta = folder / "checkpoints" / str(step) / "meta"
    meta.mkdir(parents=True)
    saved = config if isinstance(config, dict) else json.loads(config.to_json_best_effort())
    (meta / "metadata").write_text(json.dumps({"config": saved, "class_names": class_names}))
    (folder / "config.json").write_text(json.dumps(saved))
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return str(folder)


def plain():
    """A config whose fields all count."""
    config = base.defaults()
    config.data.train_list, config.data.val_list = "train.txt", "val.txt"
    return config


def other(value):
    """Another value of the same type."""
    if isinstance(value, bool):
        return not value
    return (*value, "x") if isinstance(value, tuple) else f"{value}x" if isinstance(value, str) else value + 1


def leaves(config, prefix=""):
    """Dotted name -> value of every field."""
    found = {}
    for name, value in config.items():
        nested = isinstance(value, ml_collections.ConfigDict)
        found |= leaves(value, f"{prefix}{name}.") if nested else {prefix + name: value}
    return found


def contents(*folders):
    return {path: path.read_bytes() for folder in folders for path in pathlib.Path(folder).rglob("*")
            if path.is_file()}


@pytest.mark.parametrize("field", sorted(set(leaves(plain())) - {"run"}))
def test_every_field_is_told_or_refused_when_a_run_goes_on(tmp_path, field):
    workdir, config = used(tmp_path, plain()), plain()
    old, new = leaves(config)[field], other(leaves(config)[field])
    config.update_from_flattened_dict({field: new})
    if field == "method.name":
        config.method = reskd_minik.get_config().method
    if field in MAY_CHANGE or field == "train.num_steps":
        line, = workdirs.check_resume(config, workdir)
        assert f"config.{field} was {json.dumps(old)}, now {json.dumps(new)}" in line
        return
    with pytest.raises(UserError, match="is trained up to step 6") as error:
        workdirs.check_resume(config, workdir)
    text = str(error.value)
    assert f"config.{field} was " in text and "new --workdir" in text and "--resume_anyway" in text
    assert "\n" not in text
    line, = workdirs.check_resume(config, workdir, anyway=True)
    assert f"config.{field} was " in line and "as --resume_anyway says" in line


def test_the_same_config_and_an_unused_workdir_say_nothing(tmp_path):
    assert workdirs.check_resume(plain(), used(tmp_path / "a", plain())) == []
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "config.json").write_text('{"seed": 5}')
    assert workdirs.check_resume(plain(), str(tmp_path / "b")) == [], "nothing is trained there"


def test_fields_that_older_code_did_not_have_are_no_difference(tmp_path):
    config = dynamic_k400.get_config("tiny")
    saved = json.loads(config.to_json_best_effort())
    for group, field in (("data", "calib_share"), ("method", "search"), ("bench", "seconds")):
        del saved[group][field]
    del saved["model"]["exits"]["groups"]
    saved["data"]["of_old"] = 1
    workdir = used(tmp_path, saved)
    assert workdirs.check_resume(config, workdir) == []
    assert workdirs.evaluation_name(config, workdir, "val") == ""
    config.method.search = "msdnet"  # an old run had the default
    with pytest.raises(UserError, match='config.method.search was "accuracy", now "msdnet"'):
        workdirs.check_resume(config, workdir)


def test_a_field_that_changed_what_a_recipe_means_is_a_difference(tmp_path):
    """Older code cropped 96 pixels where the recipe now crops 94: such a run does not go on unseen."""
    config = supervised_actnet.get_config("resolution=96")
    saved = json.loads(config.to_json_best_effort())
    del saved["data"]["snap_side"]
    workdir = used(tmp_path, saved)
    with pytest.raises(UserError, match="config.data.snap_side was 0, now 108"):
        workdirs.check_resume(config, workdir)
    config.data.snap_side = 0
    assert workdirs.check_resume(config, workdir) == []


def test_options_that_one_side_lacks_are_a_difference(tmp_path):
    workdir, config = used(tmp_path, plain()), plain()
    config.model.options.width = 8
    with pytest.raises(UserError, match="config.model.options.width was not set, now 8"):
        workdirs.check_resume(config, workdir)


@pytest.mark.parametrize("old, new, refused", [
    ((50.0, 0), (60.0, 0), ""), ((50.0, 0), (40.0, 0), "num_epochs was 50.0, now 40.0"),
    ((50.0, 9), (40.0, 9), ""), ((50.0, 9), (50.0, 12), ""), ((50.0, 9), (50.0, 8), "num_steps was 9, now 8"),
    ((50.0, 9), (50.0, 0), ""), ((50.0, 0), (50.0, 9), "")])
def test_a_run_may_get_longer(tmp_path, old, new, refused):
    config = plain()
    config.train.num_epochs, config.train.num_steps = old
    workdir = used(tmp_path, config)
    config.train.num_epochs, config.train.num_steps = new
    if refused:
        with pytest.raises(UserError, match=refused):
            workdirs.check_resume(config, workdir)
    else:
        workdirs.check_resume(config, workdir)


def test_a_run_past_its_end_is_refused():
    workdirs.check_length(4, 4, "w")
    with pytest.raises(UserError, match="trained up to step 6, the config asks for 4"):
        workdirs.check_length(6, 4, "w")


def test_other_classes_are_refused(tmp_path):
    workdir = used(tmp_path, plain())
    workdirs.check_classes(("a", "b"), workdir)
    with pytest.raises(UserError, match="class 1 was 'b' and is now 'c'.*--resume_anyway"):
        workdirs.check_classes(("a", "c"), workdir)
    workdirs.check_classes(("a", "c"), workdir, anyway=True)
    for anyway in (False, True):  # no network fits both
        with pytest.raises(UserError, match="has 3; class 2 was no such class and is now 'c': use a new"):
            workdirs.check_classes(("a", "b", "c"), workdir, anyway)


def test_groups_of_batch_statistics_count_not_devices(tmp_path):
    """Two devices here, see tests/conftest.py."""
    workdir, config = used(tmp_path / "two", plain(), run={"devices": ["0", "1"]}), plain()
    assert workdirs.check_resume(config, workdir) == []
    config.model.bn_groups = 2
    assert workdirs.check_resume(config, workdir) == [], "the same in words"
    config.model.bn_groups = 4
    with pytest.raises(UserError, match="config.model.bn_groups was 0, now 4"):
        workdirs.check_resume(config, workdir)
    workdir = used(tmp_path / "four", plain(), run={"devices": ["0"] * 4})
    assert workdirs.check_resume(config, workdir) == []
    line, = workdirs.check_devices(config, workdir, 100)
    assert "computed on 4 devices before, on 2 now; batch statistics are taken as before" in line


def test_other_devices_with_statistics_per_device(tmp_path):
    workdir, config = used(tmp_path, plain(), run={"devices": ["0"] * 4}), plain()
    config.train.num_steps = 7
    with pytest.raises(UserError, match='bn_groups was "0, a part of a batch on each of 4 devices", '
                                        'now "0 on 2; --config.model.bn_groups=4 keeps') as error:
        workdirs.check_devices(config, workdir, 100)
    assert "--resume_anyway" in str(error.value) and "\n" not in str(error.value)
    line, = workdirs.check_devices(config, workdir, 100, anyway=True)
    assert "as --resume_anyway says" in line and "each of 4 devices" in line
    add_meta(tmp_path, arrays={"params/fc/bias": {}})
    line, = workdirs.check_devices(config, workdir, 100)  # nothing there depends on a batch
    assert "computed on 4 devices before, on 2 now" in line
    add_meta(tmp_path, arrays={"params/fc/bias": {}, "stats/bn1/mean": {}})
    with pytest.raises(UserError, match="config.model.bn_groups was"):
        workdirs.check_devices(config, workdir, 100)
    config.train.num_steps = 6
    add_meta(tmp_path, step=6, num_classes=2)
    assert workdirs.check_devices(config, workdir, 100) == [], "nothing is left to train"


def add_meta(workdir, step=6, **entries):
    path = workdir / "checkpoints" / str(step) / "meta" / "metadata"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"step": step} | entries))


def test_a_workdir_that_has_moved_is_the_same(tmp_path):
    config = reskd_minik.get_config("tiny")
    old, new = (runs.stage_config(config, "student", f"{place}/run") for place in ("/old/place", tmp_path))
    assert old.method.teacher != new.method.teacher
    assert workdirs.check_resume(new, used(tmp_path / "run" / "student", old)) == []
    new.method.teacher = str(tmp_path / "run" / "baseline")
    with pytest.raises(UserError, match='config.method.teacher was "/old/place/run/teacher"'):
        workdirs.check_resume(new, str(tmp_path / "run" / "student"))


@pytest.mark.parametrize("old, new, fine", [
    ("", "teacher,student", False), ("teacher,student", "", False), ("teacher,student", "teacher", False),
    ("teacher,baseline,student", "teacher,student", True), ("teacher", "teacher,student", True),
    ("teacher,student", "teacher, student", True)])
def test_stages_of_a_used_workdir(tmp_path, old, new, fine):
    config = reskd_minik.get_config("tiny")
    config.run = old
    used(tmp_path / old.split(",")[-1], config)
    (tmp_path / "config.json").write_text(config.to_json_best_effort())
    config.run = new
    workdirs.check_run(config, str(tmp_path), anyway=True)
    if fine:
        workdirs.check_run(config, str(tmp_path))
    else:
        with pytest.raises(UserError, match=f'config.run was "{old}", now "{new}".*--resume_anyway'):
            workdirs.check_run(config, str(tmp_path))


@pytest.mark.parametrize("stage", ["", "student"])
def test_training_compares_before_it_writes(tmp_path, stage):
    config = (reskd_minik if stage else supervised_minik).get_config("tiny")
    workdir = str(tmp_path)
    whole = runs.prepare(config, workdir)
    used(tmp_path / stage, runs.stage_config(whole, stage, workdir) if stage else whole)
    if stage:
        (tmp_path / "config.json").write_text(config.to_json_best_effort())
    before = contents(tmp_path)
    config.data.batch_size = 4
    with pytest.raises(UserError, match="config.data.batch_size was 8, now 4"):
        cli.train(config, workdir)
    assert contents(tmp_path) == before


def test_classes_of_every_stage_are_compared_before_anything_is_written(tmp_path, benchmark_root):
    """Those of the last stage were, when the stages before it had been trained and `config.json` replaced."""
    config, workdir = reskd_minik.get_config("tiny"), str(tmp_path)
    config.data.root = benchmark_root
    whole = runs.prepare(config, workdir)
    used(tmp_path / "student", runs.stage_config(whole, "student", workdir), step=2)
    (tmp_path / "config.json").write_text(config.to_json_best_effort())
    before = contents(tmp_path)
    config.train.log_every_steps += 1
    for anyway in (False, True):
        with pytest.raises(UserError, match="student is trained with 2 classes, the data has 16"):
            cli.train(config, workdir, anyway)
    assert contents(tmp_path) == before


def test_the_length_of_every_stage_is_compared_before_anything_is_written(tmp_path, benchmark_root):
    config, workdir = reskd_minik.get_config("tiny"), str(tmp_path)
    config.data.root = benchmark_root
    whole = runs.prepare(config, workdir)
    names = data_pipelines.open_split(whole.data, "train").class_names
    used(tmp_path / "student", runs.stage_config(whole, "student", workdir), class_names=names)
    add_meta(tmp_path / "student", arrays={}, num_classes=len(names))
    (tmp_path / "config.json").write_text(config.to_json_best_effort())
    before, config.train.num_steps = contents(tmp_path), 5
    with pytest.raises(UserError, match="student is trained up to step 6, the config asks for 5"):
        cli.train(config, workdir, resume_anyway=True)
    assert contents(tmp_path) == before


def test_imported_weights_are_no_run(tmp_path):
    workdir = used(tmp_path, {"model": plain().model.to_dict()}, step=0)
    with pytest.raises(UserError, match=f"imported weights.*--config.init.checkpoint={workdir}"):
        workdirs.check_resume(plain(), workdir)


def test_a_config_that_cannot_be_read_is_that_of_the_checkpoint(tmp_path):
    workdir, config = used(tmp_path, plain()), plain()
    config.optim.lr = 1.0
    for text in (None, "{", "[]"):
        (tmp_path / "config.json").unlink() if text is None else (tmp_path / "config.json").write_text(text)
        with pytest.raises(UserError, match="config.optim.lr was 0.01, now 1.0"):
            workdirs.check_resume(config, workdir)


# ----------------------------------------------------------------------------------------- evaluations
@pytest.mark.parametrize("field", sorted(leaves(plain())))
def test_every_field_counts_or_is_refused_in_an_evaluation(tmp_path, field):
    workdir, config = used(tmp_path, plain()), plain()
    config.update_from_flattened_dict({field: other(leaves(config)[field])})
    if field == "method.name":
        config.method = dynamic_k400.get_config().method
    if field == "data.source":
        config.data.source = "array_record"
    if field in NO_DIFFERENCE | OTHER_NUMBER:
        name = workdirs.evaluation_name(config, workdir, "val", [field])
        assert (name == "") == (field in NO_DIFFERENCE) and "/" not in name
        assert not name or name.startswith(field.rpartition(".")[2] + "-")
        return
    with pytest.raises(UserError, match=f"config.{field}.* read") as error:
        workdirs.evaluation_name(config, workdir, "val", [field])
    assert "\n" not in str(error.value)


def test_an_export_reads_its_own_fields(tmp_path):
    workdir, config = used(tmp_path, plain()), plain()
    config.export.format = "savedmodel"
    assert workdirs.check_overrides(config, workdir, ["export.format"], reads=("export.*",)) == []


def test_a_whole_config_may_differ_in_what_only_training_reads(tmp_path):
    workdir, config = used(tmp_path, plain()), plain()
    config.train.num_steps, config.optim.lr, config.data.batch_size = 5, 1.0, 3
    config.data.train_list = "other.txt"
    assert workdirs.evaluation_name(config, workdir, "val") == ""
    config.model.resolution = 16
    with pytest.raises(UserError, match="config.model.resolution was 0, now 16.*comes from the checkpoint"):
        workdirs.evaluation_name(config, workdir, "val")


def test_what_is_given_again_is_no_change(tmp_path):
    workdir = used(tmp_path, plain())
    assert workdirs.evaluation_name(plain(), workdir, "val", ["model.resolution", "data.val_list"]) == ""


def test_a_source_says_what_it_reads(tmp_path):
    config = supervised_folder.get_config()
    workdir = used(tmp_path, config)
    config.data.val_list = "hard.txt"
    with pytest.raises(UserError, match="config.data.val_list=\"hard.txt\" is not read.*'folder'"):
        workdirs.evaluation_name(config, workdir, "val", ["data.val_list"])
    listed = plain()
    workdir = used(tmp_path / "list", listed)
    listed.data.train_list = "other.txt"
    assert workdirs.evaluation_name(listed, workdir, "train", ["data.train_list"]) == "train_list-other.txt"
    with pytest.raises(UserError, match="config.data.train_list"):
        workdirs.evaluation_name(listed, workdir, "val", ["data.train_list"])


def test_names_of_evaluations_are_files_and_differ(tmp_path):
    workdir, names = used(tmp_path, plain()), set()
    for path in ("/a/hard.txt", "/b/hard.txt", "hard.txt", "ha rd.txt", "x" * 300, "\u00e4/\u00f6", "a\nb",
                 ".."):
        config = plain()
        config.data.val_list = path
        names.add(name := workdirs.evaluation_name(config, workdir, "val", ["data.val_list"]))
        (tmp_path / f"eval_{name}.json").write_text("")
    config = plain()
    config.data.test_clips, config.data.sampling = 10, "dense"
    assert workdirs.evaluation_name(config, workdir, "val") == "sampling-dense_test_clips-10"
    assert len(names) == 8 and "val_list-hard.txt" in names


def test_settings_of_a_method_that_only_training_reads(tmp_path):
    config = reskd_minik.get_config("tiny")
    workdir = used(tmp_path / "reskd", config)
    config.method.weight = 7.0
    assert workdirs.evaluation_name(config, workdir, "val") == ""
    with pytest.raises(UserError, match="config.method.weight is not read here"):
        workdirs.evaluation_name(config, workdir, "val", ["method.weight"])
    config = dynamic_k400.get_config("tiny")
    workdir = used(tmp_path / "dynamic", config)
    config.method.executor = "pool"
    assert workdirs.evaluation_name(config, workdir, "val", ["method.executor"]) == "executor-pool"


def test_an_evaluation_with_changes_is_written_beside_the_result(tiny_run):
    config, stage = runs.trained(None, tiny_run)
    before = contents(tiny_run)
    config.data.twice_sample = True
    found = cli.eval(config, tiny_run, overrides=["data.twice_sample"])
    assert found["val/views"] == 2
    with open(f"{stage}/eval_twice_sample-True.json") as f:
        assert json.load(f) == found
    after = contents(tiny_run)
    assert {path: after[path] for path in before} == before
    assert {path.name for path in after.keys() - before.keys()} == {
        f"{name}twice_sample-True.{end}" for name, end in (
            ("eval_", "json"), ("predictions_val_", "csv"), ("predictions_val_", "npz"))}
    config.model.resolution = 16
    for use in (cli.eval, cli.export):
        with pytest.raises(UserError, match="config.model.resolution is not read here"):
            use(config, tiny_run, overrides=["model.resolution"])


def test_the_result_of_other_splits_stays(tmp_path):
    new = {"step": 4, "val/top1": 0.5}
    for step, wanted in ((4, new | {"test/top1": 1}), (5, new)):
        (tmp_path / "metrics.json").write_text(json.dumps({"step": step, "val/top1": 0, "test/top1": 1}))
        evaluate.write_result(str(tmp_path), new)
        assert json.loads((tmp_path / "metrics.json").read_text()) == wanted
