"""Networks that take frames one by one: equal to the clip-wise answer, in bounded memory and time."""

import itertools
import json
import os
import subprocess
import sys
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import effvid_jax
from configs import dynamic_k400, supervised_folder
from data_pipelines import VideoError, write_frames
from effvid_jax import cli
from effvid_jax.backbones import make_backbone, shifts
from effvid_jax.errors import NotFiniteError, UserError
from effvid_jax.methods import building, streaming
from effvid_jax.predict import Predictor, streams
from tests.made import made, online_config, save_untrained

CLASSES = ("a", "b", "c", "d", "e")  # of `online_run`
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


@pytest.fixture(scope="module")
def model(online_run):
    return effvid_jax.load(online_run)


@pytest.fixture(scope="module")
def frames():
    return np.random.default_rng(0).integers(0, 256, (11, 40, 52, 3), np.uint8)


def whole_stream(method, variables, clip):
    """(N, K) logits of every frame (N, H, W, 3) in one clip-wise pass over all of them."""
    def look(clip):
        pooled = method.model.apply(variables.network, method.sight(clip))[1]["pooled"]
        return method.model.apply(variables.network, pooled, method="classify")

    return np.asarray(jax.jit(look)(clip[None])[0])


# ------------------------------------------------------------------------------------------------ equality
def test_a_stream_says_what_the_clip_says(model, frames):
    """After each of the first T frames what a clip of these frames says: what `predict` does after T."""
    stream, network = model.stream(), model._network
    crops = np.stack([network.reader.crops(frame)[0] for frame in frames])
    each = whole_stream(network._method, network._variables, crops)
    for n, frame in enumerate(frames, 1):
        scores = stream.push(frame)
        expected = network.task.scores(each[max(0, n - 4):n].mean(axis=0)[None])[0]
        np.testing.assert_allclose(scores, expected, atol=1e-6)
        assert stream.frames == n and scores.sum() == pytest.approx(1)
        if n == 4:
            result = model.predict(frames[:4])
            np.testing.assert_allclose(scores, result.scores, atol=1e-6)
            assert [name for name, _ in stream.top(2)] == [name for name, _ in result.top(2)]
    later = model.predict(frames[-4:]).scores
    assert np.abs(scores - later).max() > 1e-4, "its shifts remember what came before these four"
    assert stream.gmacs == pytest.approx(result.gmacs / 4, rel=1e-5)
    assert model.class_names == stream.class_names == CLASSES
    stream.reset()
    np.testing.assert_allclose(stream.push(frames[0]), network.task.scores(each[:1])[0], atol=1e-6)


def test_every_logit_in_double_precision(model, frames):
    """Frame by frame, further than a clip: the last T logits are those of a pass over all frames."""
    network = model._network
    method = network._method
    pixels = method.sight.pixels
    with jax.enable_x64(True) if hasattr(jax, "enable_x64") else jax.experimental.enable_x64(True):
        variables = jax.tree.map(lambda x: np.asarray(x, np.float64), network._variables)
        clip = np.stack([network.reader.crops(frame)[0] for frame in frames])
        clip = (clip - np.array(pixels.mean)) / np.array(pixels.std)
        expected = whole_stream(method, variables, clip)
        found = streaming.streaming(method, variables, (1, 32, 32, 3), 4, clip.dtype)
        step, state = jax.jit(found.step), found.start
        tolerance = 1e-12 * max(1, np.abs(expected).max())
        for n, frame in enumerate(clip):
            state, logits = step(variables, state, frame[None])
            assert logits.dtype == np.float64
            np.testing.assert_allclose(state["logits"][n % 4, 0], expected[n], rtol=0, atol=tolerance)
            mean = expected[max(0, n - 3):n + 1].mean(axis=0)
            np.testing.assert_allclose(logits, mean, rtol=0, atol=tolerance)
        assert 4 <= int(state["count"]) < 8, "never overflows"


@pytest.mark.parametrize("scheme, backbone", [
    ("unified", "resnet18"), pytest.param("input", "resnet18", marks=pytest.mark.slow),
    pytest.param("depth", "msdnet_38", marks=pytest.mark.slow)])
def test_networks_with_exits_answer_with_their_last_head(scheme, backbone):
    """Where shifts stay within groups of frames, each group has a memory of its own."""
    config = dynamic_k400.get_config(f"tiny,backbone={backbone},scheme={scheme}")
    side = 48 if backbone == "msdnet_38" else 32
    config.data.update(dict(test_short_side=side, test_crop_size=side))
    method = made(config, CLASSES)
    variables = save_untrained(config, CLASSES)
    clip = np.random.default_rng(0).integers(0, 256, (4, side, side, 3), np.uint8)
    found = streaming.streaming(method, variables, (1, side, side, 3), 4)
    assert len(set(streaming.memories(method.model, 4))) == (2 if scheme == "unified" else 1)
    step, state = jax.jit(found.step), found.start
    for frame in clip:
        state, logits = step(variables, state, frame[None])
    expected = jax.jit(method.segments.full)(variables, clip[None])[0]
    np.testing.assert_allclose(logits, expected, atol=1e-5 * np.abs(expected).max())
    assert 4 * found.gmacs == pytest.approx(method.full_gmacs, rel=0.02), "the last head is counted per frame"


def test_views_of_a_frame_are_averaged(frames):
    config = online_config()
    config.data.test_crop = "three"
    method, variables = made(config, CLASSES), save_untrained(config, CLASSES)
    crops = np.random.default_rng(0).integers(0, 256, (4, 3, 32, 32, 3), np.uint8)
    found = streaming.streaming(method, variables, (3, 32, 32, 3), 4)
    step, state = jax.jit(found.step), found.start
    for frame in crops:
        state, logits = step(variables, state, frame)
    expected = jax.jit(method.predict)(variables, {"video": crops.swapaxes(0, 1)[None]})
    ours, theirs = (method.task.scores(x) for x in (logits[None], expected.logits))
    np.testing.assert_allclose(ours, theirs, atol=1e-6)
    assert 4 * found.gmacs == pytest.approx(float(expected.gmacs[0]), rel=1e-5)


# ----------------------------------------------------------------------------------------------- what cannot
@pytest.mark.parametrize("backbone, options, words", [
    ("x3d_m", {}, "X3D looks at several frames at once"), ("swin3d_t", {}, "at several frames at once"),
    ("tpn_tsm_resnet50", {}, "at several frames at once"),
    ("trn_bninception", {}, "at several frames at once"), ("bninception", {}, ""), ("ghostnet", {}, ""),
    ("tsm_resnet18", {}, "shift of this ResNet is two-sided: a frame reads the one after it"),
    ("tsm_mobilenet_v2", {"shift": "offline"}, "shift of this MobileNetV2 is two-sided"),
    ("tsm_mobilenet_v2", {"shift": "online"}, ""), ("tsm_efficientnet_lite0", {"shift": "online"}, ""),
    ("resnet18", {}, ""), ("resnet18", {"shift": "none"}, ""),
    ("msdnet_38", {"shift": shifts.OnlineShift}, ""),
    ("resnet18", {"conv": "gated"}, "convolutions with gates decide by a whole clip")])
def test_what_cannot_stream_is_told_what_to_do(backbone, options, words):
    options = {name: (lambda *a, **k: None) if value == "gated" else value for name, value in options.items()}
    network = make_backbone(backbone, num_classes=5, **options)
    if not words:
        assert streaming.memories(network, 4) == (0,) * 4
        return
    with pytest.raises(UserError, match=words) as caught:
        streaming.memories(network, 4)
    assert "--window=SECONDS" in str(caught.value) and "shift=online" in str(caught.value)


def test_orders_of_frames_that_go_back(frames):
    config = dynamic_k400.get_config("tiny,backbone=resnet18,scheme=input")
    config.model.exits.order = (0, 2, 1, 3)
    with pytest.raises(UserError, match=r"config.model.exits.order=\(0, 2, 1, 3\): in a group"):
        streaming.memories(building.build_backbone(config.model, 5), 4)
    config.model.exits.shift = "none"
    assert streaming.memories(building.build_backbone(config.model, 5), 4) == (0,) * 4


def test_words_for_shifts():
    assert supervised_folder.get_config("pretrained,shift=online").model.options.shift == "online"
    clip = jnp.asarray(np.random.default_rng(0).normal(size=(1, 3, 2, 2, 16)))
    for word, other in (("online", lambda x: shifts.OnlineShift().apply({}, x)),
                        ("offline", shifts.temporal_shift), ("none", lambda x: x)):
        shift = shifts.make_shift(word)
        found = shift.apply({}, clip) if word == "online" else shift(clip)
        np.testing.assert_array_equal(found, other(clip))
    with pytest.raises(UserError, match="shift='onlin': expected one of online, offline, none"):
        jax.eval_shape(make_backbone("tsm_resnet18", 5, shift="onlin").init, jax.random.key(0),
                       jnp.zeros((1, 2, 32, 32, 3)))


def test_frames_that_are_none(model, frames, monkeypatch):
    stream = model.stream()
    with pytest.raises(UserError, match="no frame has come yet"):
        stream.top()
    for bad in (frames[:2], frames[0].astype(np.float32), frames[0][..., :1]):
        with pytest.raises(VideoError, match=r"frame: .*; expected uint8 \(H, W, 3\)"):
            stream.push(bad)
    good = stream.push(frames[0])
    monkeypatch.setattr(stream, "_step", lambda *_: (None, np.full(5, np.nan)))
    with pytest.raises(NotFiniteError, match=r"frame 1\): scores of the network at step 3"):
        stream.push(frames[1])
    monkeypatch.undo()
    np.testing.assert_array_equal(stream.scores, good)
    assert stream.latency()[0] > 0 and stream.frames == 1


# ------------------------------------------------------------------------------------- pipes and long streams
@pytest.fixture(scope="module")
def long_video(tmp_path_factory):
    """300 frames of 32 pixels at 30 a second as a transport stream: any number of them makes a longer one."""
    folder = tmp_path_factory.mktemp("stream")
    rng = np.random.default_rng(0)
    write_frames(folder / "a.mp4", (rng.integers(0, 256, (8, 8, 3), np.uint8).repeat(4, 0).repeat(4, 1)
                                    for _ in range(300)), 30.0)
    import av

    with av.open(str(folder / "a.mp4")) as source, av.open(str(folder / "a.ts"), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    return folder


def test_a_pipe_and_a_file_are_played_as_a_stream(online_run, long_video, monkeypatch, capsys):
    """300 frames each: a row a frame, as pushing them says, in memory and time that do not grow."""
    path, memory, took, push = str(long_video / "a.ts"), [], [], streams.Stream.push

    def watched(self, frame):
        memory.append(resident())
        start = time.process_time()
        scores = push(self, frame)
        took.append(time.process_time() - start)
        return scores

    monkeypatch.setattr(streams.Stream, "push", watched)
    cli.predict(None, online_run, path, True, stream=True, output=str(long_video / "rows.jsonl"))
    out, err = capsys.readouterr()
    lines = [json.loads(line) for line in out.splitlines()]
    assert len(lines) == 301 and lines[-1]["frames"] == 300 and "300 frames in" in err and "ms (95 %)" in err
    assert [line["frame"] for line in lines[:-1]] == list(range(300))
    assert set(lines[0]) == {"video", "frame", "second", "top5", "gmacs", "milliseconds"}
    assert lines[-1]["milliseconds_median"] > 0
    assert lines[-1]["gmacs"] == pytest.approx(300 * lines[0]["gmacs"])
    rows = [json.loads(line) for line in (long_video / "rows.jsonl").read_text().splitlines()]
    assert rows == lines[:-1]

    assert memory[299] - memory[100] < 10 * 2**20, "a program that is compiled anew would show, too"
    assert np.median(took[200:300]) < 1.5 * np.median(took[50:150]) + 1e-3, "of the processor"

    read, write = os.pipe()
    feeder = threading.Thread(target=_feed, args=(write, (long_video / "a.ts").read_bytes()))
    feeder.start()
    monkeypatch.setattr(sys, "stdin", os.fdopen(read))
    cli.predict(None, online_run, "-", True, stream=True)
    feeder.join()
    sys.stdin.close()
    piped = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["top5"] for line in piped] == [line["top5"] for line in lines] and piped[0]["video"] == "-"

    stream, model = effvid_jax.load(online_run).stream(), Predictor(online_run)
    with model.reader.play(path) as played:
        for line, (second, frame) in itertools.islice(zip(lines, played), 60):
            stream.push(frame)
            assert line["second"] == round(second, 3) and line["top5"] == stream.told()["top5"]


def resident() -> int:
    """Bytes of memory that this process has; 0 where the system does not tell."""
    try:
        with open("/proc/self/statm") as f:
            return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def _feed(descriptor: int, content: bytes) -> None:
    with os.fdopen(descriptor, "wb") as pipe:
        pipe.write(content)


def test_people_see_where_the_answer_changes(online_run, long_video, capsys):
    cli.predict(None, online_run, str(long_video / "a.ts"), False, stream=True, every=10, seconds=4.0)
    *changes, words, last = capsys.readouterr().out.splitlines()
    assert json.loads(last)["frames"] == 12 and words.startswith(str(long_video)) and 1 <= len(changes) <= 12
    said = [line.split(": ")[1].split(" ")[0] for line in changes]
    assert all(a != b for a, b in zip(said, said[1:])) and ", 0.00 s: " in changes[0]


FEED = """
import sys
content = open(sys.argv[1], "rb").read()
for _ in range(int(sys.argv[2])):
    sys.stdout.buffer.write(content)
"""


@pytest.mark.slow
@pytest.mark.parametrize("source", ["pipe", "file"])
def test_ten_thousand_frames_in_bounded_memory_and_time(online_run, long_video, source, tmp_path):
    """Through `main.py`, as a user would.

    Resident memory at the end is at most 15 MB above that after 1,000 frames: frames of 32 pixels that were
    kept would be 28 MB, and what is seen is 0 to 1. The latency of the last 1,000 frames is at most 1.5 times
    that of frames 1,000 to 2,000, and 1 ms: the 10th percentile of it, as machines may be busy.
    """
    times = 34
    program = [sys.executable, "-c", WATCHED, ROOT, f"--workdir={online_run}", "--mode=predict", "--stream",
               "--json"]
    if source == "pipe":
        with subprocess.Popen([sys.executable, "-c", FEED, str(long_video / "a.ts"), str(times)],
                              stdout=subprocess.PIPE) as feeder:
            done = subprocess.run([*program, "--video=-"], stdin=feeder.stdout, capture_output=True,
                                  text=True, check=False)
            feeder.stdout.close()
    else:
        (tmp_path / "long.ts").write_bytes((long_video / "a.ts").read_bytes() * times)
        done = subprocess.run([*program, f"--video={tmp_path}/long.ts"], capture_output=True, text=True,
                              check=False)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    *rows, last = rows
    assert len(rows) == last["frames"] == 300 * times > 10_000
    milliseconds = np.array([row["milliseconds"] for row in rows])
    early, late = (np.percentile(part, 10) for part in (milliseconds[1000:2000], milliseconds[-1000:]))
    memory = [int(line.split()[1]) for line in done.stderr.splitlines() if line.startswith("RSS ")]
    print(f"{source}: {early:.2f} ms early, {late:.2f} late; {memory[0] / 2**20:.0f} MB after 1,000 "
          f"frames, {memory[-1] / 2**20:.0f} at the end")
    assert late <= 1.5 * early + 1
    assert len(memory) == 10 and memory[-1] - memory[0] < 15 * 2**20


WATCHED = """
import os, sys, runpy
sys.path.insert(0, sys.argv[1])
from effvid_jax.predict import streams
push = streams.Stream.push
def watched(self, frame):
    scores = push(self, frame)
    if self.frames % 1000 == 0:
        pages = int(open("/proc/self/statm").read().split()[1])
        print("RSS", pages * os.sysconf("SC_PAGE_SIZE"), file=sys.stderr, flush=True)
    return scores
streams.Stream.push = watched
sys.argv = [os.path.join(sys.argv[1], "main.py"), *sys.argv[2:]]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
