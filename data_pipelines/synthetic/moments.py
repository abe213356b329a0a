"""The embedded benchmark of long clips with few telling frames: what they show, and the files.

A small object moves across a textured background for the whole clip, a plain diamond with a dark rim. In one
stretch of the clip, the moment, it is something else: a disc or a square with a fine texture and a bright
rim. It never leaves the square in the middle that tests crop. The class is the pair (texture, form), such as
`stripes_disc`. What systems that choose are about is built in:

* Few frames tell. Outside of the moment a frame says nothing about the class; in the hardest clips the moment
  is an eighth of the clip. Which frames tell can be seen at few pixels, by the rim.
* A small place tells. The rest of a telling frame says nothing, and the object is elsewhere in every frame.
* Fine detail. The texture has a period of a few pixels, and is gone or aliased at half the size, where the
  form still shows.
* Mixed difficulty. Every clip draws one, which shortens the moment, shrinks the object, lowers the contrast
  and adds noise and decoys (plain objects that stand still). Easy clips can be told from almost any frame.

A mirror changes no class, nor does time reversed. Clip i of a split is a pure function of (parameters except
the counts, split, i). The folder is as that of `benchmark.py`.
"""

import functools
from pathlib import Path

import cv2
import numpy as np

from data_pipelines.synthetic import folders
from data_pipelines.synthetic.benchmark import Benchmark, write_video
from data_pipelines.synthetic.drawing import TEXTURES, _background, _paste
from data_pipelines.synthetic.parameters import completed, within
from data_pipelines.tools import atomic_write, parallel

GENERATOR_VERSION = 1  # goes up whenever the same parameters give other clips
FORMS = {"disc": 2.0, "square": 12.0}  # power of the norm whose ball it is; the plain object's is 1
SPLITS = ("train", "val")


def default_params() -> dict:
    """The parameters, plain values (the fields of config.data.synthetic).

    num_textures: times two forms is the number of classes; at most 6.
    train_clips, val_clips: number of files; classes are balanced.
    short_side: of the frames in pixels; their aspect is 1 or 4:3, either way.
    min_frames, max_frames: length of a clip, uniform.
    min_moment, max_moment: length of the moment in the hardest and in the easiest clips, of the clip's.
    min_size, max_size: side of the object in the hardest and in the easiest clips, of the short side.
    min_period, max_period: period of the texture in pixels, uniform.
    contrast: amplitude of the texture of the easiest clips, in grey levels.
    difficulty: of a clip is uniform from 0 to this; at most 1.
    seed: another seed gives another benchmark of the same kind.
    """
    return dict(num_textures=4, train_clips=1600, val_clips=480, short_side=72, min_frames=32, max_frames=48,
                min_moment=0.125, max_moment=0.7, min_size=0.3, max_size=0.55, min_period=3.2, max_period=4.0,
                contrast=70.0, difficulty=1.0, seed=0)


def check_params(params) -> dict:
    """Returns the given parameters completed with the defaults, as plain values.

    Raises:
        DataError: an unknown parameter (with close matches), or a value that cannot work.
    """
    checked = completed(params, default_params())
    limits = dict(
        num_textures=(1, len(TEXTURES)), train_clips=(1, 10**7), val_clips=(1, 10**7), short_side=(32, 1080),
        min_frames=(2, checked["max_frames"]), max_frames=(2, 10**4), min_moment=(0, checked["max_moment"]),
        max_moment=(0, 1), min_size=(0.1, checked["max_size"]), max_size=(0.1, 0.8),
        min_period=(2, checked["max_period"]), max_period=(2, 64), contrast=(1, 100), difficulty=(0, 1),
        seed=(0, 2**32 - 1))
    return within(checked, limits)


def class_names(params: dict) -> list[str]:
    """Class names in the order of their labels."""
    textures = list(TEXTURES)[:params["num_textures"]]
    return sorted(f"{texture}_{form}" for texture in textures for form in FORMS)


# --------------------------------------------------------------------------------------- one clip
def draw_factors(params: dict, split: str, index: int) -> tuple[dict, np.random.Generator]:
    """What generates a clip, plain values, and the clip's generator, which draws the pixels next.

    `first` and `last` are the frames that the moment begins and ends with, `size` is the object's side in
    pixels. A moment has a frame in each of as many equal parts of the clip as fit into it, but for one.
    """
    rng = np.random.default_rng([GENERATOR_VERSION, params["seed"], SPLITS.index(split), index])
    names, side = class_names(params), params["short_side"]
    label = index % len(names)
    difficulty = rng.uniform() * params["difficulty"]

    def between(easy, hard):
        return easy + (hard - easy) * difficulty

    aspect = rng.choice((1, 4 / 3, 3 / 4))
    height, width = (2 * round(side * max(1, a) / 2) for a in (1 / aspect, aspect))
    length = int(rng.integers(params["min_frames"], params["max_frames"] + 1))
    moment = max(1, round(length * between(params["max_moment"], params["min_moment"])))
    first = int(rng.integers(0, length - moment + 1))
    return dict(
        label=label, name=names[label], difficulty=round(difficulty, 4), width=width, height=height,
        frames=length, first=first, last=first + moment - 1,
        size=round(side * between(params["max_size"], params["min_size"]) * rng.uniform(0.9, 1.1)),
        period=round(rng.uniform(params["min_period"], params["max_period"]), 3),
        contrast=round(params["contrast"] * between(1.0, 0.5), 2), noise=round(between(1.0, 9.0), 2),
        decoys=int(rng.integers(0, 1 + round(between(0, 3))))), rng


def make_clip(params: dict, split: str, index: int) -> tuple[dict, np.ndarray]:
    """(factors, frames) of a clip: see `draw_factors`; uint8 (T, H, W, 3) RGB."""
    factors, rng = draw_factors(params, split, index)
    size, length = (factors["height"], factors["width"]), factors["frames"]
    texture, form = factors["name"].split("_")
    radius = factors["size"] // 2
    colour = rng.uniform(95, 160) + rng.uniform(-25, 25, 3)
    plain = _object(rng, colour, radius, 1.0, None, factors, rim=25)
    telling = _object(rng, colour, radius, FORMS[form], texture, factors, rim=230)
    decoys = [(*_object(rng, rng.uniform(95, 160) + rng.uniform(-25, 25, 3), int(radius * 0.8), 1.0, None,
                        factors, rim=25), rng.uniform(size=2)) for _ in range(factors["decoys"])]
    start, angle = rng.uniform(size=2), rng.uniform(0, 2 * np.pi)
    speed = factors["height"] * rng.uniform(0.02, 0.05) * np.array([np.sin(angle), np.cos(angle)])
    background = _background(rng, *size, min(size))
    noise = np.rint(rng.normal(0, factors["noise"], (size[0] + 31, size[1] + 31))).astype(np.int16)
    noise = cv2.merge([noise] * 3)  # one field, read elsewhere in every frame
    frames = np.empty((length, *size, 3), np.uint8)
    room = 0.9 * min(size) - 2 * radius  # of 64 pixels out of 72
    inset = (np.array(size) - 0.9 * min(size)) / 2
    for t in range(length):
        canvas = background.copy()
        for pixels, mask, place in decoys:
            _at(canvas, pixels, mask, place * (np.array(size) - len(mask)))
        places = inset + room - np.abs((start * room + speed * t) % (2 * room) - room)
        _at(canvas, *(telling if factors["first"] <= t <= factors["last"] else plain), places)
        y, x = rng.integers(32, size=2)
        cv2.add(canvas, noise[y:y + size[0], x:x + size[1]], dst=frames[t], dtype=cv2.CV_8U)
    return factors, frames


def _object(rng, colour, radius: int, power: float, texture: str | None, factors, rim: int):
    """Pixels (2r, 2r, 3) uint8 and mask (2r, 2r) of one."""
    axis = np.arange(2 * radius) - radius + 0.5
    x, y = axis[None, :], axis[:, None]
    angle, scale = rng.uniform(-0.2, 0.2), 2 * np.pi / factors["period"]
    u = (x * np.cos(angle) + y * np.sin(angle)) * scale + rng.uniform(0, 2 * np.pi)
    v = (y * np.cos(angle) - x * np.sin(angle)) * scale + rng.uniform(0, 2 * np.pi)
    distance = (np.abs(x / radius) ** power + np.abs(y / radius) ** power) ** (1 / power)
    pixels = np.full((2 * radius, 2 * radius, 3), colour)
    if texture:
        pixels = pixels + (factors["contrast"] * TEXTURES[texture](u, v))[..., None]
    pixels[distance > 0.82] = rim
    return np.clip(pixels, 0, 255).astype(np.uint8), distance <= 1.0


def _at(canvas, pixels, mask, place) -> None:
    y, x = np.rint(place).astype(int)
    _paste(canvas, pixels, mask, int(x), int(y))


# ------------------------------------------------------------------------------------------ files
def ensure_built(data_config) -> Benchmark:
    """Builds the benchmark of a configuration unless it is there already.

    Args:
        data_config: the data configuration; `synthetic` has the parameters, `root` is the folder under which
            every set of parameters has its own subfolder.

    Raises:
        DataError: bad parameters; no root, or one that holds something else.
    """
    params = check_params(data_config.synthetic)
    folder = folders.choose(data_config, params, len(class_names(params)),
                            ["moments", GENERATOR_VERSION, params], "moments")
    return build(folder, params)


def build(out, params, workers: int | None = None) -> Benchmark:
    """Writes the benchmark into a folder, or completes it there; shows progress on stderr.

    Of several processes that build in the same folder one works and the others wait for it.

    Args:
        out: the folder, new or of a benchmark with these parameters.
        params: see `default_params`; missing ones take their defaults.
        workers: threads; the number of cores by default.
    """
    params, out = check_params(params), Path(out).absolute()
    manifest = {"generator_version": GENERATOR_VERSION, "kind": "moments", "parameters": params}
    with folders.building(out, manifest):
        for split in SPLITS:
            if (out / f"{split}.txt").exists():
                continue
            (out / split).mkdir(exist_ok=True)
            rows = list(parallel(functools.partial(_write_clip, out, params, split),
                                 range(params[f"{split}_clips"]), workers,
                                 f"writing the embedded benchmark, {split}", "clip", processes=True))
            folders.write_lists(out, split, rows)
        with atomic_write(out / "classes.txt") as part:
            part.write_text("".join(f"{name}\n" for name in class_names(params)))
    return Benchmark(*(str(out / name) for name in ("train.txt", "val.txt", "classes.txt", "")))


def _write_clip(out, params, split, index):
    """Writes one file unless it is there, and returns its row of the list."""
    path = f"{split}/{index:06d}.mp4"
    if (out / path).exists():
        return {"path": path, **draw_factors(params, split, index)[0]}
    factors, frames = make_clip(params, split, index)
    write_video(out / path, frames, crf=20)
    return {"path": path, **factors}
