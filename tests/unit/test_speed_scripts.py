"""The scripts that time convolutions and PyTorch's side, without PyTorch."""

import functools
import json

import jax
import jax.numpy as jnp
import pytest

from benchmarks import conv_forms, decoders, frame_latency, storage, versus_torch, videos
from effvid_jax.reports import results


def row(name: str, value: str) -> dict:
    return results.make_row(name, value, dataset="", config="", command="", seeds=())


def test_a_lost_ratio_is_named():
    before = versus_torch.stored([row("cpu_train: TSN-R50, 8 x 64²: ours ÷ best PyTorch", "0.80"),
                                  row("cpu_train: TSN-R50, 8 x 64²: ours (clips/s)", "3"),
                                  row("gpu_train: TSN-R50, 8 x 64²: ours ÷ best PyTorch", "5")])
    assert before == {"train/TSN-R50, 8 x 64²": 0.8}
    lines = {"peaks/device": {"values": {}}, "train/TSN-R50, 8 x 64²": {"values": {"ratio": 0.69}}}
    assert not versus_torch.losses(lines, before)
    lines["train/TSN-R50, 8 x 64²"]["values"]["ratio"] = 0.6
    assert versus_torch.losses(lines, before) == [
        "train/TSN-R50, 8 x 64²: 0.60 of PyTorch's speed, stored is 0.80 (-25 %)"]


def test_a_profile_names_operations():
    x = jnp.ones((64, 64))
    told = versus_torch.profile(functools.partial(jax.jit(lambda x: jnp.sin(x @ x)), x))
    assert "| operations" in told and len(told.splitlines()) > 2


def test_every_geometry_is_found_once_and_measured(tmp_path, capsys):
    found = conv_forms.geometries(["resnet18", "tsm_resnet18", "x3d_s"], [64])
    assert found[((1, 8, 64, 64, 3), (7, 7, 3, 64), (2, 2), (3, 3), 1, (1, 1))] == [
        "resnet18 at 64", "tsm_resnet18 at 64"]
    kinds = {conv_forms.kind(geometry) for geometry in found}
    assert kinds >= {"1x1", "kernel larger than map", "strided", "depthwise 3-D", "1 in time"}
    small = [g for g in found if g[0][2] == 2 and conv_forms.kind(g) == "kernel larger than map"][:1]
    line = conv_forms.measure(small[0], (1e11, 1e10), repeats=1)
    assert line["gmacs"] > 0 and line["plain_backward_ms"] > 0 and line["forward_over_limit"] > 0
    line |= {"geometry": repr(small[0]), "kind": "kernel larger than map", "who": ["resnet18 at 64"]}
    (tmp_path / conv_forms.FILE).write_text(json.dumps(line) + "\n")
    conv_forms.main(["--out", str(tmp_path), "--rows", "none", "--results", str(results_file(tmp_path))])
    assert "kernel larger than map" in capsys.readouterr().out
    assert any("XLA's ÷ ours" in r["what"] for r in results.read_rows(str(results_file(tmp_path))))


def test_decoders_and_forms_of_storage(tmp_path, capsys):
    """Both tables of a few frames: rows, exact frames, what is written for the documents."""
    flags = [f"--out={tmp_path}", "--clips=1", "--frames=18", "--size=160x96", "--repeats=1", "--cores=1",
             f"--results={results_file(tmp_path)}", "--note=a test"]
    decoders.main(flags)
    rows = json.loads(capsys.readouterr().out.splitlines()[-1])["rows"]
    assert {row["kind"] for row in rows} == set(videos.KINDS)
    ours = [row for row in rows if row["library"] == decoders.OURS]
    assert len(ours) == len(videos.KINDS) and all(row["ratio"] == 1 and row["wrong"] == 0 == row["difference"]
                                  for row in ours)
    storage.main(flags)
    rows = {row["form"]: row for row in json.loads(capsys.readouterr().out.splitlines()[-1])["rows"]}
    assert set(rows) == {storage.ORIGINAL, *storage.COPIES, *storage.SHARDS}
    assert rows["original video in ArrayRecord"]["difference"] == 0
    for name in ("copy, key frames only", "32 JPEG frames in ArrayRecord"):
        assert 0 < rows[name]["difference"] < 12 and rows[name]["psnr"] > 25
    written = results.read_rows(str(results_file(tmp_path)))
    text = results.fill("<!-- results: decoders -->\n<!-- /results -->\n<!-- results: storage -->\n"
                        "<!-- /results -->\n", written)
    assert "| PyAV, as used" in text and "grey levels lost (PSNR)" in text


def test_a_decoder_that_gives_other_frames_is_caught(tmp_path):
    path, = videos.make_videos(tmp_path, "mp4, 12 apart", 1, 18, (160, 96))
    late = lambda path, indices: videos.every_frame(path)[[i + (i > 9) for i in indices]]  # noqa: E731
    assert decoders.exactness(late, [path]) == (4, 8, 0)
    assert decoders.exactness(lambda path, indices: 1 // 0, [path])[:2] == (8, 8)


def results_file(tmp_path):
    path = tmp_path / "results.csv"
    if not path.exists():
        path.write_text(",".join(results.COLUMNS) + "\n")
    return path


@pytest.mark.slow
def test_no_geometry_falls_off_a_cliff():
    """XLA's cliffs cost 50 to 1,400 times the limit; small maps and groups up to 11 on an idle machine."""
    rates, far = conv_forms.peaks(), {}
    for geometry in conv_forms.geometries(["resnet50", "r2plus1d_18", "mfnet_3d", "artnet_18"], [16]):
        line = conv_forms.measure(geometry, rates, plain=False)
        worst = max(line["forward_over_limit"], line["backward_over_limit"])
        if worst > 25:
            far[geometry] = round(worst, 1)
    assert not far, far


def test_frames_one_by_one_are_timed_where_they_say_what_the_clip_says(tmp_path, capsys):
    flags = ["--networks=tsm_resnet18:32", "--frames=2", "--seconds=0.1", "--classes=3"]
    frame_latency.main([*flags, f"--results={results_file(tmp_path)}"])
    assert "tsm_resnet18" in capsys.readouterr().out
    found = {row["what"]: row["value"] for row in results.read_rows(str(results_file(tmp_path)))}
    assert float(found["frame_latency: tsm_resnet18, 32²: latency of a frame (ms)"]) > 0
    with pytest.raises(SystemExit, match="tsm_resnet18: after 2 frames .* differs from the clip's by"):
        frame_latency.main([*flags, "--tolerance=0"])
