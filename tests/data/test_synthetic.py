import csv
import json
import os
import subprocess
import sys
import time
import zlib
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

from data_pipelines import DataError, VideoError, make_pipeline, synthetic
from data_pipelines.check_videos import check_file
from data_pipelines.synthetic import drawing
from data_pipelines.video.decode import open_video
from tests.data.clip_files import data_config

ROOT = Path(__file__).parents[2]
SMALL = dict(num_textures=2, num_motions=4, train_clips=16, val_clips=8, short_side=32,
             min_frames=8, max_frames=10)


def config(root, **changes):
    return data_config(source="synthetic", root=str(root), flip=False,
                       synthetic=SMALL | changes.pop("synthetic", {}), **changes)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    root = tmp_path_factory.mktemp("synthetic")
    return synthetic.ensure_built(config(root)), config(root)


def rows(benchmark, split):
    with open(Path(benchmark.root) / f"{split}_clips.csv", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def tree(folder):
    return {str(path.relative_to(folder)): path.read_bytes()
            for path in sorted(Path(folder).rglob("*")) if path.is_file() and path.name != ".lock"}


def test_default_parameters():
    params = synthetic.check_params({})
    assert params == synthetic.default_params()
    names = synthetic.class_names(params)
    assert len(names) == 16 and names == sorted(names) and "stripes_left" in names


def test_files_lists_and_factors_agree(built):
    benchmark, _ = built
    names = Path(benchmark.classes_file).read_text().split()
    for split, list_path in (("train", benchmark.train_list), ("val", benchmark.val_list)):
        lines = Path(list_path).read_text().splitlines()
        factors = rows(benchmark, split)
        assert len(lines) == len(factors) == SMALL[f"{split}_clips"]
        assert set(Counter(row["label"] for row in factors).values()) == {len(lines) // len(names)}
        for line, row in zip(lines, factors, strict=True):
            path, label = line.split()
            assert (path, label) == (row["path"], row["label"])
            assert path.split("/")[1] == names[int(label)] == f"{row['texture']}_{row['motion']}"
            assert 0 <= int(row["decisive_frame"]) < int(row["frames"])
            with open_video(os.path.join(benchmark.root, path)) as video:
                shape = video.get(range(video.num_frames)).shape
                rate = [float(x) for x in row["fps"].split("/")]
                assert video.fps == pytest.approx(rate[0] / (rate + [1])[1], rel=1e-3)
            assert shape == (int(row["frames"]), int(row["height"]), int(row["width"]), 3)
    everything = rows(benchmark, "train")
    for varied in ("width", "height", "frames", "fps", "crf", "gop", "redundancy", "difficulty"):
        assert len({row[varied] for row in everything}) > 1, varied


def test_a_second_call_writes_nothing(built):
    benchmark, data = built
    before = {path: path.stat().st_mtime_ns for path in Path(benchmark.root).rglob("*.*4")}
    assert synthetic.ensure_built(data) == benchmark
    assert {path: path.stat().st_mtime_ns for path in Path(benchmark.root).rglob("*.*4")} == before


def test_same_seed_same_bytes_and_missing_files_are_replaced(built, tmp_path):
    benchmark, _ = built
    again = synthetic.build(tmp_path, SMALL, workers=1)
    expected = tree(benchmark.root)
    assert tree(again.root) == expected
    for lost in ("train/bars_up/000003.mp4", "val.txt", "train_clips.csv"):
        (tmp_path / lost).unlink()
    (tmp_path / "train/bars_up/.000003.mp4.1.2.part").write_bytes(b"left over")
    synthetic.build(tmp_path, SMALL)
    assert tree(tmp_path) == expected


def test_other_parameters_other_folder(built, tmp_path):
    benchmark, data = built
    with pytest.raises(DataError, match="other parameters .seed=0 there, 1 wanted.*another folder"):
        synthetic.build(benchmark.root, SMALL | {"seed": 1})
    params = synthetic.check_params(SMALL)
    _, one = synthetic.make_clip(params, "train", 0)
    for other in (synthetic.make_clip(params | {"seed": 1}, "train", 0),
                  synthetic.make_clip(params, "val", 0)):
        assert other[1].shape != one.shape or (other[1] != one).mean() > 0.5
    # A larger benchmark begins with the smaller one.
    _, larger = synthetic.make_clip(params | {"train_clips": 99}, "train", 0)
    np.testing.assert_array_equal(larger, one)


def test_a_killed_build_is_completed(tmp_path):
    params = SMALL | {"train_clips": 120}
    code = ("import sys; from data_pipelines import synthetic; "
            f"synthetic.build(sys.argv[1], {params!r}, workers=1)")
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "killed")], cwd=ROOT,
                               stderr=subprocess.DEVNULL)
    while process.poll() is None and not list(tmp_path.rglob("*.mp4")):
        time.sleep(0.002)
    process.kill()
    process.wait()
    begun = list(tmp_path.rglob("*.mp4"))
    print(f"killed after {len(begun)} of 128 files")
    assert 0 < len(begun) < 128
    for path in begun:
        check_file(str(path))  # no partial file under a final name
    assert tree(synthetic.build(tmp_path / "killed", params).root) == tree(
        synthetic.build(tmp_path / "whole", params).root)


def test_the_pipeline_reads_it(built):
    _, data = built
    train = make_pipeline(data, "train")
    batch = next(train)
    assert batch["video"].shape == (8, 4, 32, 32, 3) and train.num_examples == 16
    assert train.source.class_names == synthetic.class_names(synthetic.check_params(SMALL))
    val = list(make_pipeline(data, "val"))
    assert sum(batch["mask"].sum() for batch in val) == 8


def test_a_single_frame_does_not_tell_the_direction():
    """Frames of left and right are alike, at the beginning and the end as in the middle."""
    params = synthetic.check_params(dict(num_textures=1, short_side=32, min_frames=8, max_frames=8,
                                         difficulty=0.0, late_share=0.0))
    names = synthetic.class_names(params)
    print("share of the detail that is in the left half of the picture:")
    for t in (0, 4, 7):
        places = {"left": [], "right": []}
        for index in range(240):
            motion = names[index % len(names)].split("_")[1]
            if motion in places:
                frame = synthetic.make_clip(params, "train", index)[1][t].astype(int)
                detail = np.abs(np.diff(frame, axis=1)).sum((0, 2))
                places[motion].append(detail[:len(detail) // 2].sum() / detail.sum())
        left, right = (np.array(places[name]) for name in ("left", "right"))
        error = np.sqrt(left.var() / len(left) + right.var() / len(right))
        gap = (left.mean() - right.mean()) / error
        print(f"  frame {t}: left {left.mean():.3f}, right {right.mean():.3f}, z = {gap:.2f}")
        assert abs(gap) < 3.5


@pytest.mark.parametrize("motion", drawing.MOTIONS)
def test_patches_move_in_the_direction_of_the_class(motion, monkeypatch):
    monkeypatch.setattr(drawing, "_background", lambda rng, height, width, side: np.zeros(
        (height, width, 3), np.uint8))
    params = synthetic.check_params(dict(num_textures=1, difficulty=0.0))
    factors, rng = drawing.draw_factors(params, "train", 0)
    factors |= dict(motion=motion, clutter=0, occlusion=0, noise=0.0, reveal=0.0)
    frames = drawing._render(factors, rng).astype(np.float32)
    last = int(np.argmax(drawing._positions(factors) >= 6))
    dx, dy = drawing.MOTIONS[motion]
    errors = {step: np.abs(np.roll(frames[0], (step * dy, step * dx), (0, 1)) - frames[last])[
        12:-12, 12:-12].sum() for step in range(-12, 13)}
    best = min(errors, key=errors.get)
    print(f"{motion}: best shift {best}, true {drawing._positions(factors)[last]}")
    assert best == drawing._positions(factors)[last] > 0 and errors[best] == 0


def test_textures_lose_contrast_at_half_resolution_but_do_not_vanish():
    rng = np.random.default_rng(0)
    for name in drawing.TEXTURES:
        ratios = []
        for _ in range(20):
            _, patch, mask = drawing._patch(rng, name, 24, rng.uniform(3.5, 4.5), 60.0)
            inner = patch[8:40, 8:40, 1].astype(np.float32)
            half = cv2.resize(inner, (16, 16), interpolation=cv2.INTER_AREA)
            ratios.append(half.std() / inner.std())
        print(f"{name}: contrast at half resolution {np.mean(ratios):.2f}")
        assert 0.3 < np.mean(ratios) < 0.85


def test_factors_mean_what_they_say():
    params = synthetic.check_params({})
    drawn = [drawing.draw_factors(params, "train", index)[0] for index in range(300)]
    static = {kind: np.mean([f["static_share"] for f in drawn if f["redundancy"] == kind])
              for kind in ("slow", "fast", "burst")}
    early = [f["decisive_frame"] / f["frames"] for f in drawn if not f["late"]]
    late = [f["decisive_frame"] / f["frames"] for f in drawn if f["late"]]
    print(f"static share {static}; decisive: {np.mean(early):.2f}, late {np.mean(late):.2f}")
    assert static["burst"] > 0.5 and static["slow"] < 0.3 and static["fast"] < 0.3
    assert np.mean(late) > np.mean(early) + 0.2
    # What the reference's training sampler can see of N frames, see default_params.
    assert all(f["decisive_frame"] < 8 * (f["frames"] // 8) for f in drawn)
    easy, hard = ([f for f in drawn if low <= f["difficulty"] < high]
                  for low, high in ((0, 0.15), (0.35, 0.5)))
    for name in ("noise", "clutter", "occlusion", "shake"):
        assert np.mean([f[name] for f in hard]) > np.mean([f[name] for f in easy]), name
    assert np.mean([f["contrast"] for f in hard]) < np.mean([f["contrast"] for f in easy])


def test_held_clips_repeat_their_pictures_and_nothing_else_changes():
    params = synthetic.check_params(SMALL | dict(min_frames=16, max_frames=32, held_share=0.5))
    plain = params | {"held_share": 0.0}
    held = []
    for index in range(16):
        factors, frames = synthetic.make_clip(params, "train", index)
        wanted, original = synthetic.make_clip(plain, "train", index)
        n, pictures = factors["frames"], factors.pop("pictures")
        held.append(pictures == 4)
        starts = [min(t // (n // 4), 3) * (n // 4) for t in range(n)] if held[-1] else list(range(n))
        np.testing.assert_array_equal(frames, original[starts])
        same = set(factors) - ({"decisive_frame", "static_share"} if held[-1] else set())
        assert {name: factors[name] for name in same} == {name: wanted[name] for name in same}
        assert factors["decisive_frame"] >= wanted["decisive_frame"]
        assert len(np.unique(frames.reshape(n, -1), axis=0)) == (4 if held[-1] else n)
    assert 3 < sum(held) < 13
    drawn = [drawing.draw_factors(params, "val", index)[0] for index in range(800)]
    assert all(f["decisive_frame"] < 8 * (f["frames"] // 8) for f in drawn)  # the sampler sees it
    shares = [np.mean([f["pictures"] == 4 for f in drawn if f["label"] == k]) for k in range(8)]
    print("held, per class:", shares)
    assert all(abs(share - 0.5) < 0.2 for share in shares)


def test_a_benchmark_without_younger_parameters_is_the_old_one(built):
    """Its folder, its manifest and what generates its clips are those of the code before `held_share`."""
    benchmark, _ = built
    params = synthetic.check_params(SMALL)
    assert Path(benchmark.root).name == "8_classes_16+8_clips_02f203ab"
    assert "held_share" not in (Path(benchmark.root) / "manifest.json").read_text()
    drawn = [drawing.draw_factors(params, "train", index)[0] for index in range(16)]
    assert zlib.crc32(json.dumps(drawn).encode()) == 3559701920
    with pytest.raises(DataError, match="other parameters .held_share=0.0 there, 0.5 wanted"):
        synthetic.build(benchmark.root, SMALL | {"held_share": 0.5})


@pytest.mark.parametrize("change, message", [
    ({"train_clip": 3}, "unknown data.synthetic.train_clip: did you mean train_clips"),
    ({"num_textures": 9}, "data.synthetic.num_textures=9 must be within 1 and 6"),
    ({"min_frames": 50}, "data.synthetic.min_frames=50 must be within 2 and 32"),
    ({"train_clips": 2.5}, "data.synthetic.train_clips=2.5 must be a number of the kind"),
    ({"difficulty": "hard"}, "data.synthetic.difficulty='hard' must be a number"),
])
def test_bad_parameters(change, message):
    with pytest.raises(DataError, match=message):
        synthetic.check_params(change)


def test_bad_configurations(tmp_path):
    data = config(tmp_path)
    data.flip = True
    with pytest.raises(DataError, match="data.flip=True.*left and right.*Set data.flip=False"):
        synthetic.ensure_built(data)
    with pytest.raises(DataError, match="data.root is empty"):
        synthetic.ensure_built(config(""))


@pytest.mark.parametrize("theirs", ["juggling/a.mp4", "a.txt", "train/juggling/a.mp4", "2_classes/a.mp4",
                                    "4_classes_4+4_clips_01234567/a.mp4", "manifest.json"])
def test_nothing_is_written_beside_somebody_elses_files(tmp_path, theirs):
    path = tmp_path / theirs
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("[]")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(DataError, match="data.root=.*not the embedded benchmark.s, and :tiny and :demo"):
        make_pipeline(config(tmp_path), "train")
    with pytest.raises(DataError, match="holds files that are not the embedded benchmark's"):
        synthetic.build(tmp_path, SMALL)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_that_is_meant_for_it_is_used(built, tmp_path):
    benchmark, _ = built
    (tmp_path / "new" / ".cache").mkdir(parents=True)
    first = synthetic.ensure_built(config(tmp_path / "new"))
    second = synthetic.ensure_built(config(tmp_path / "new", synthetic=SMALL | {"seed": 5}))
    assert Path(first.root).parent == Path(second.root).parent == tmp_path / "new"
    (tmp_path / "new" / "notes.txt").write_text("of somebody who looked at the clips")
    assert synthetic.ensure_built(config(tmp_path / "new")) == first, "it is there, nothing has to be written"
    assert synthetic.build(benchmark.root, SMALL) == benchmark


@pytest.mark.parametrize("field, value", [("train_list", "mine.txt"), ("val_list", "mine.txt"),
                                          ("classes_file", "mine.txt"), ("num_classes", 3)])
def test_what_would_be_ignored_is_refused(tmp_path, field, value):
    with pytest.raises(DataError, match=f"data.{field}={value!r} contradicts data.source='synthetic'"):
        make_pipeline(config(tmp_path, **{field: value}), "train")
    assert not list(tmp_path.iterdir())


def test_flips_are_fine_with_vertical_motions(tmp_path):
    data = config(tmp_path, synthetic=dict(num_motions=2, train_clips=4, val_clips=4))
    data.flip = True
    assert Path(synthetic.ensure_built(data).root).parent == tmp_path


def test_command_line_and_contact_sheet(tmp_path, capsys):
    arguments = ["--out", str(tmp_path / "clips"), "--train=4", "--val=4", "--size=32",
                 "--num_textures=2", "--num_motions=2"]
    assert synthetic.main(arguments + ["--contact_sheet", str(tmp_path / "sheet.png")]) == 0
    assert "4 train and 4 val clips of 4 classes" in capsys.readouterr().out
    sheet = cv2.imread(str(tmp_path / "sheet.png"))
    assert sheet.shape == (4 * 162, 7 * 144, 3)


def test_odd_files_are_what_they_claim(tmp_path):
    for name, readable in synthetic.make_odd_files(tmp_path).items():
        try:
            check_file(str(tmp_path / name))
            reason = ""
        except VideoError as error:
            reason = error.reason
        print(f"{name}: {reason or 'fine'}")
        assert bool(reason) != readable, name
    with open_video(str(tmp_path / "name with blanks.mp4")) as video:
        frames = video.get([0, 5])
    with open_video(str(tmp_path / "rotated.mp4")) as video:
        np.testing.assert_array_equal(video.get([0, 5]), np.rot90(frames, -1, axes=(1, 2)))
    with open_video(str(tmp_path / "odd_size.mp4")) as video:
        assert video.get([0]).shape[1:3] == (frames.shape[1] - 1, frames.shape[2] - 1)


def test_write_video_refuses_what_is_no_video(tmp_path):
    for frames in (np.zeros((0, 8, 8, 3), np.uint8), np.zeros((8, 8, 3), np.uint8),
                   np.zeros((2, 8, 8, 3))):
        with pytest.raises(ValueError, match="frames must be uint8"):
            synthetic.write_video(tmp_path / "a.mp4", frames)
    assert not list(tmp_path.iterdir())
