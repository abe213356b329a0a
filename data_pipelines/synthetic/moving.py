"""The embedded benchmark of localisation: what its clips show, and drawing them.

Textured patches move over a textured background; the class of one is the pair (texture, motion), such as
`rings_pulse`, and what is to be found in a key frame is where the patches of a class are.

* Motion. A patch slides along a line (from edge to edge) or pulses in its place. One frame shows neither.
* Distractors. Patches with the same textures that stand still, and plain ones that move as the others do, are
  of no class: texture alone is not enough, nor is motion.
* Difficulty. Every clip draws one, which lowers the contrast and adds noise and distractors.
* Exact boxes. A box is what the patch covers, whole where another one lies over it, and cut at the frame's
  edge. In a key frame no two patches overlap by more than a tenth (IoU).

A mirror changes no class.
"""


import cv2
import numpy as np

from data_pipelines.synthetic.drawing import TEXTURES, _background, _paste, _patch
from data_pipelines.synthetic.parameters import completed, within

GENERATOR_VERSION = 1  # goes up whenever the same parameters give other clips
MOTIONS = ("slide", "pulse")
SPLITS = ("train", "val")
OVERLAP = 0.1  # of two patches in a key frame, at most


def default_params() -> dict:
    """The parameters, plain values (the fields of config.data.synthetic).

    num_textures: times two motions is the number of classes; at most 6.
    train_clips, val_clips: number of files.
    key_frames: of a clip, spread over it; each is an example.
    short_side: of the frames in pixels; their aspect is 1 or 4:3, either way.
    min_frames, max_frames: length of a clip, uniform.
    objects: patches of a class in a clip, 1 to this many.
    distractors: patches of no class in the hardest clips, at most.
    min_size, max_size: side of a patch in short sides, uniform.
    difficulty: of a clip is uniform from 0 to this; at most 1.
    seed: another seed gives another benchmark of the same kind.
    """
    return dict(num_textures=3, train_clips=1200, val_clips=300, key_frames=2, short_side=96, min_frames=16,
                max_frames=24, objects=2, distractors=3, min_size=0.26, max_size=0.46, difficulty=0.5, seed=0)


def check_params(params) -> dict:
    """Returns the given parameters completed with the defaults, as plain values.

    Raises:
        DataError: an unknown parameter (with close matches), or a value that cannot work.
    """
    checked = completed(params, default_params())
    limits = dict(
        num_textures=(1, len(TEXTURES)), train_clips=(1, 10**7), val_clips=(1, 10**7),
        key_frames=(1, checked["min_frames"]), short_side=(32, 1080), min_frames=(2, checked["max_frames"]),
        max_frames=(2, 10**4), objects=(1, 4), distractors=(0, 8), min_size=(0.05, checked["max_size"]),
        max_size=(0.05, 0.5), difficulty=(0, 1), seed=(0, 2**32 - 1))
    return within(checked, limits)


def class_names(params: dict) -> list[str]:
    """Class names in the order of their labels."""
    return sorted(f"{texture}_{motion}" for texture in list(TEXTURES)[:params["num_textures"]]
                  for motion in MOTIONS)


def make_clip(params: dict, split: str,
              index: int) -> tuple[np.ndarray, list[tuple[int, str, tuple[int, ...]]]]:
    """(frames, boxes) of a clip, a pure function of its arguments but the numbers of clips.

    Args:
        params: from `check_params`.
        split: 'train' or 'val'.
        index: number of the clip.

    Returns:
        uint8 (T, H, W, 3) RGB, and (frame, class name, (x1, y1, x2, y2) in pixels) of every patch of a class
        in every key frame.
    """
    rng = np.random.default_rng([GENERATOR_VERSION, params["seed"], SPLITS.index(split), index])
    side = params["short_side"]
    aspect = rng.choice((1, 4 / 3, 3 / 4))
    height, width = (2 * round(side * max(1, a) / 2) for a in (1 / aspect, aspect))
    length = int(rng.integers(params["min_frames"], params["max_frames"] + 1))
    difficulty = rng.uniform() * params["difficulty"]
    parts = np.linspace(0, length, params["key_frames"] + 1).astype(int)
    keys = [int(rng.integers(a, b)) for a, b in zip(parts, parts[1:])]
    names = class_names(params)
    wanted = [names[(index + k) % len(names)] if k == 0 else str(rng.choice(names))
              for k in range(int(rng.integers(1, params["objects"] + 1)))]
    others = int(rng.integers(0, 1 + round(params["distractors"] * (0.4 + 0.6 * difficulty))))
    patches = []
    for name in [*[None] * others, *wanted]:
        for _ in range(50):
            patch = _Patch(rng, params, name, (height, width), length, difficulty)
            if all(_overlap(patch.box(t), other.box(t)) <= OVERLAP for t in keys for other in patches):
                patches.append(patch)
                break
    frames = _render(rng, patches, (height, width), length, difficulty)
    found = []
    for t in keys:
        for patch in patches:
            x1, y1, x2, y2 = patch.box(t)
            x1, y1, x2, y2 = max(x1, 0), max(y1, 0), min(x2, width), min(y2, height)
            if patch.name and x2 - x1 > 2 and y2 - y1 > 2:
                found.append((t, patch.name, (x1, y1, x2, y2)))
    return frames, found


class _Patch:
    """A patch and its way through the clip; of no class if `name` is None."""

    def __init__(self, rng, params, name, size, length, difficulty):
        self.name, side = name, params["short_side"]
        texture, motion = name.split("_") if name else (
            str(rng.choice(list(TEXTURES)[:params["num_textures"]])), str(rng.choice(MOTIONS)))
        moves = bool(name) or rng.uniform() < 0.5
        radius = side * rng.uniform(params["min_size"], params["max_size"]) / 2
        times = np.arange(length)
        self._radii = np.full(length, radius)
        if moves and motion == "pulse":
            turns = times / rng.uniform(8, 13) + rng.uniform()
            self._radii = radius * (1 + 0.35 * np.sin(2 * np.pi * turns))
        speed = side * rng.uniform(0.02, 0.04) if moves and motion == "slide" else 0.0
        angle = rng.uniform(0, 2 * np.pi)
        start = [rng.uniform(0, n - 2 * radius) for n in size]
        self._centres = np.stack([
            radius + _bounced(s + speed * times * f, n - 2 * radius)
            for s, f, n in zip(start, (np.sin(angle), np.cos(angle)), size)], axis=1)
        pixels = int(np.ceil(self._radii.max()))
        plain, textured, self._mask = _patch(rng, texture, pixels, side * rng.uniform(0.09, 0.12),
                                             75.0 * (1 - 0.6 * difficulty) * rng.uniform(0.85, 1.0))
        self._pixels = textured if name or not moves else plain

    def box(self, t: int) -> tuple[int, int, int, int]:
        """x1, y1, x2, y2 in whole pixels, maybe beyond the frame."""
        (y, x), pixels = self._centres[t], max(2, int(round(2 * self._radii[t])))
        left, top = int(round(x - pixels / 2)), int(round(y - pixels / 2))
        return left, top, left + pixels, top + pixels

    def paste(self, canvas, t: int) -> None:
        """Draws it into a frame."""
        left, top, right, _ = self.box(t)
        size = (right - left,) * 2
        patch = cv2.resize(self._pixels, size, interpolation=cv2.INTER_LINEAR)
        mask = cv2.resize(self._mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0
        _paste(canvas, patch, mask, left, top)


def _bounced(x, room: float):
    """Positions that turn round at 0 and `room`."""
    room = max(room, 1e-6)
    return room - np.abs(x % (2 * room) - room)


def _overlap(a, b) -> float:
    w = min(a[2], b[2]) - max(a[0], b[0])
    h = min(a[3], b[3]) - max(a[1], b[1])
    both = max(w, 0) * max(h, 0)
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def _render(rng, patches, size, length: int, difficulty: float) -> np.ndarray:
    background = _background(rng, *size, min(size))
    noise = np.rint(rng.normal(0, 1 + 9 * difficulty, (size[0] + 31, size[1] + 31))).astype(np.int16)
    noise = cv2.merge([noise] * 3)  # one field, read elsewhere in every frame
    frames = np.empty((length, *size, 3), np.uint8)
    for t in range(length):
        canvas = background.copy()
        for patch in patches:
            patch.paste(canvas, t)
        y, x = rng.integers(32, size=2)
        cv2.add(canvas, noise[y:y + size[0], x:x + size[1]], dst=frames[t], dtype=cv2.CV_8U)
    return frames
