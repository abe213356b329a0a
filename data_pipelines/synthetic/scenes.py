"""Embedded benchmark of segmentation: textured scenes made by code, real jpg images and png masks.

A scene is two or three zones on top of each other, ground and what stands behind it, and textured objects in
front of them. What a class looks like is its texture, not its colour, which is random; some are easily taken
for others:

* `sky` and `road` are plain, and differ by where they are and by a little grain; `grass` is fine grain.
* `water` is long waves, `wall` coarse checks.
* Objects carry a texture: `stripes` and `bars` are the same but for their direction, `dots` and `rings`
  differ in detail. `pole` is plain and thin, a few pixels wide.
* Every image draws a difficulty that sets contrast, noise, number and size of objects, and compression: easy
  images can be told with little computation. Some have a blot without a class (255 in the mask).

    train/images/000000.jpg  train/masks/000000.png  val/...  classes.txt  train_images.csv  val_images.csv
    manifest.json

Image i of a split is a pure function of (parameters except the counts, split, i).
"""

import csv
import functools
from pathlib import Path

import cv2
import numpy as np

from data_pipelines.synthetic import folders
from data_pipelines.synthetic.drawing import SPLITS, TEXTURES
from data_pipelines.synthetic.parameters import completed, within
from data_pipelines.tools import atomic_write, parallel

GENERATOR_VERSION = 1  # goes up whenever the same parameters give other images
CLASSES = ("sky", "wall", "grass", "water", "road", "stripes", "bars", "dots", "rings", "pole")
_BEHIND, _GROUND, _OBJECTS = ("sky", "wall"), ("grass", "water", "road"), CLASSES[5:9]
_UNLABELLED = 255
_ASPECTS = (1, 4 / 3, 3 / 2, 3 / 4)
_LIMITS = dict(train_clips=(1, 10**6), val_clips=(1, 10**6), short_side=(32, 1080), difficulty=(0, 1),
               seed=(0, 2**32 - 1))


def default_params() -> dict:
    """The parameters, plain values (the fields of config.data.synthetic).

    train_clips, val_clips: number of images.
    short_side: in pixels; the long side has up to 1.5 times as much.
    difficulty: that of an image is uniform from 0 to this; at most 1.
    seed: another seed gives another benchmark of the same kind.
    """
    return dict(train_clips=1000, val_clips=200, short_side=72, difficulty=0.6, seed=0)


def check_params(params) -> dict:
    """The given parameters completed with the defaults, as plain values.

    Raises:
        DataError: an unknown parameter (with close matches), or a value that cannot work.
    """
    return within(completed(params, default_params()), _LIMITS)


# ------------------------------------------------------------------------------------------- one scene
def make_scene(params: dict, split: str, index: int) -> tuple[dict, np.ndarray, np.ndarray]:
    """(what generates it, uint8 RGB (H, W, 3), uint8 mask (H, W)) of an image; 255: no class."""
    rng = np.random.default_rng([GENERATOR_VERSION, params["seed"], SPLITS.index(split), index])
    difficulty = rng.uniform() * params["difficulty"]
    aspect, side = rng.choice(_ASPECTS), params["short_side"]
    height, width = round(side * max(1, 1 / aspect)), round(side * max(1, aspect))
    objects = int(rng.integers(1, 3 + round(3 * difficulty)))
    blot = bool(rng.uniform() < 0.2)
    factors = dict(image=f"{index:06d}.jpg", difficulty=round(difficulty, 4), objects=objects, blot=int(blot),
                   width=width, height=height)
    scene = _Scene(rng, height, width, side, difficulty)
    scene.zones()
    for _ in range(objects):
        scene.object(str(rng.choice(_OBJECTS)))
    for _ in range(int(rng.integers(0, 2 + round(2 * difficulty)))):
        scene.pole()
    if blot:
        scene.blot()
    return factors, scene.finished(), scene.mask


class _Scene:
    """An image and its mask while they are drawn."""

    def __init__(self, rng, height: int, width: int, side: int, difficulty: float):
        self._rng, self._side, self._hard = rng, side, difficulty
        self.image = np.zeros((height, width, 3), np.float32)
        self.mask = np.zeros((height, width), np.uint8)
        self._y, self._x = np.mgrid[:height, :width].astype(np.float32)

    def _between(self, easy: float, hard: float) -> float:
        return easy + (hard - easy) * self._hard

    def _colour(self):
        return self._rng.uniform(70, 185) + self._rng.uniform(-35, 35, 3)

    def _pattern(self, name: str) -> np.ndarray:
        """Grey levels around 0, (H, W), of a class."""
        rng, side = self._rng, self._side
        contrast = self._between(55, 22) * rng.uniform(0.85, 1.1)
        if name in ("sky", "road", "pole"):
            grain = 0 if name == "pole" else {"sky": 1.0, "road": self._between(7, 4)}[name]
            return rng.normal(0, 1, self.mask.shape) * grain + (self._y / side) * rng.uniform(-15, 15)
        if name == "grass":
            grain = rng.normal(0, 1, self.mask.shape).astype(np.float32)
            return contrast * 0.8 * cv2.GaussianBlur(grain, (0, 0), 0.7) / 0.4
        period = side * {"water": 0.22, "wall": 0.17}.get(name, 0.085) * rng.uniform(0.85, 1.15)
        angle, scale = rng.uniform(-0.25, 0.25), 2 * np.pi / period
        u = (self._x * np.cos(angle) + self._y * np.sin(angle)) * scale + rng.uniform(0, 2 * np.pi)
        v = (self._y * np.cos(angle) - self._x * np.sin(angle)) * scale + rng.uniform(0, 2 * np.pi)
        texture = {"water": "waves", "wall": "checks"}.get(name, name)
        return contrast * TEXTURES[texture](u, v)

    def _paint(self, name: str, where: np.ndarray) -> None:
        painted = self._colour() + self._pattern(name)[..., None]
        self.image[where] = painted[where]
        self.mask[where] = CLASSES.index(name)

    def zones(self) -> None:
        """One or two zones behind, one in front of them, with a wavy edge."""
        rng, height = self._rng, self.mask.shape[0]
        everywhere = np.ones(self.mask.shape, bool)
        self._paint("sky" if rng.uniform() < 0.6 else "wall", everywhere)
        if rng.uniform() < 0.4:  # a wall or the sky beside it
            self._paint(str(rng.choice(_BEHIND)), self._x > self.mask.shape[1] * rng.uniform(0.3, 0.7))
        edge = height * rng.uniform(0.35, 0.65) + self._side * 0.05 * np.sin(
            self._x / self._side * rng.uniform(3, 9) + rng.uniform(0, 6))
        self._paint(str(rng.choice(_GROUND)), self._y > edge)

    def object(self, name: str) -> None:
        """A disc, a square or something between, small in hard images."""
        rng, side = self._rng, self._side
        radius = side * rng.uniform(self._between(0.17, 0.08), self._between(0.3, 0.2))
        x, y = (rng.uniform(0.1, 0.9) * n for n in self.mask.shape[::-1])
        power = rng.choice([1.0, 2.0, 3.0, 8.0])
        across, down = (self._x - x) / radius, (self._y - y) / radius / rng.uniform(0.7, 1.2)
        near = np.abs(across)**power + np.abs(down)**power
        self._paint(name, near <= 1)

    def pole(self) -> None:
        """A thin plain bar that stands on the ground."""
        rng, (height, width) = self._rng, self.mask.shape
        x = rng.uniform(0.05, 0.95) * width
        thick = self._side * rng.uniform(0.035, self._between(0.08, 0.055))
        top, bottom = rng.uniform(0.05, 0.4) * height, rng.uniform(0.6, 0.95) * height
        self._paint("pole", (np.abs(self._x - x) <= thick / 2) & (self._y >= top) & (self._y <= bottom))

    def blot(self) -> None:
        """Something without a class."""
        rng = self._rng
        x, y = (rng.uniform(0.1, 0.9) * n for n in self.mask.shape[::-1])
        where = np.hypot(self._x - x, self._y - y) < self._side * rng.uniform(0.08, 0.14)
        self.image[where] = rng.uniform(0, 255, (int(where.sum()), 3))
        self.mask[where] = _UNLABELLED

    def finished(self) -> np.ndarray:
        """The image with light and noise, uint8."""
        rng, (height, width) = self._rng, self.mask.shape
        light = rng.uniform(-20, 20, 2)
        image = self.image + (light[0] * self._x / width + light[1] * self._y / height)[..., None]
        image += rng.normal(0, self._between(2, 14), self.mask.shape)[..., None]
        return np.clip(image, 0, 255).astype(np.uint8)


# ------------------------------------------------------------------------------------------- the files
def build(out, params: dict, workers: int | None = None) -> Path:
    """Writes the benchmark into a folder unless it is there; an interrupted build goes on.

    Raises:
        DataError: bad parameters, or a folder that holds anything else.
    """
    params, out = check_params(params), Path(out).absolute()
    manifest = {"generator_version": GENERATOR_VERSION, "kind": "scenes", "parameters": params}
    with folders.building(out, manifest):
        missing = []
        for split in SPLITS:
            for kind in ("images", "masks"):
                (out / split / kind).mkdir(parents=True, exist_ok=True)
            missing += [(split, i) for i in range(params[f"{split}_clips"])
                        if not (out / split / "masks" / f"{i:06d}.png").exists()]
        written = dict(zip(missing, parallel(
            functools.partial(_write_scene, out, params), missing, workers, "writing the embedded benchmark",
            "image", processes=True), strict=True))
        for split in SPLITS:
            scenes = [(split, i) for i in range(params[f"{split}_clips"])]
            if any(scene in written for scene in scenes) or not (out / f"{split}_images.csv").exists():
                folders.write_csv(out / f"{split}_images.csv", [
                    written.get(scene) or make_scene(params, *scene)[0] for scene in scenes])
        with atomic_write(out / "classes.txt") as part:
            part.write_text("".join(f"{name}\n" for name in CLASSES))
    return out


def _write_scene(out, params, scene):
    """Writes image and mask of one scene and returns its factors; `scene`: split and index."""
    split, index = scene
    factors, image, mask = make_scene(params, split, index)
    quality = [cv2.IMWRITE_JPEG_QUALITY, round(95 - 25 * factors["difficulty"])]
    for kind, ending, pixels, options in (  # the mask is last: then both are there
            ("images", ".jpg", image[..., ::-1], quality), ("masks", ".png", mask, [])):
        with atomic_write(out / split / kind / f"{index:06d}{ending}") as part:
            part.write_bytes(cv2.imencode(ending, pixels, options)[1].tobytes())
    return factors


def ensure_built(data_config) -> Path:
    """Builds the benchmark of a data configuration in a folder of its own below `root`; returns that folder.

    Raises:
        DataError: bad parameters, no root, or one that holds something else.
    """
    params = check_params(data_config.synthetic)
    identity = [GENERATOR_VERSION, params]
    return build(folders.choose(data_config, params, len(CLASSES), identity, "scenes"), params)


def made(data_config, split: str) -> dict[str, dict[str, str]]:
    """{name of an image: what generated it} of a split."""
    with open(ensure_built(data_config) / f"{split}_images.csv", encoding="utf-8") as f:
        return {row["image"]: row for row in csv.DictReader(f)}
