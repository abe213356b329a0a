"""The clips of the embedded benchmark: what they show, and drawing them.

A clip shows a row of patches that carry a fine texture and drift over a textured background. Its
class is the pair (texture, motion), e.g. `stripes_left`; by default 4 textures x 4 directions. What
the papers' claims rest on is built in:

* Fine detail. A texture has a period of a few pixels at the nominal short side. At half the
  resolution it loses contrast and partly aliases, but does not vanish (ResKD).
  Patches and clutter have the same dark or bright rim, so motion is visible at any resolution.
* Motion and order. The row is periodic along its direction and starts at a uniform phase, so a
  single frame, even the first or the last, shows the axis of the motion but not its sign: it is
  right in half of the clips at best. Reversed in time, left becomes right and up becomes down; so
  left and right do in a mirror, which is why `ensure_built` refuses data.flip with these classes.
* Binding. Clutter is patches of a coarse texture that stand or drift in unrelated directions: what
  counts is the direction of the fine texture.
* Difficulty. Every clip draws a difficulty that sets contrast, clutter, occlusion, camera shake,
  sensor noise and compression (Dynamic Inference: easy and hard clips).
* The decisive frame. In some clips (`late_share`) the motion begins late, or the patches are plain
  at first and show their texture late.
* Redundancy. Motion is `slow` (small steps, whole clip), `fast` (large steps) or a `burst` (the
  clip stands still but for a short part) (VA-RED^2: static against fast). In all of them camera,
  clutter and noise go on; `held_share` of the clips show four pictures only, each for a quarter of
  the clip: every other of eight evenly spread frames repeats the one before. Whether a clip is held
  says nothing about its class, its motion or its difficulty.

Size, aspect ratio, length, frame rate, key-frame distance and quality differ from clip to clip.
"""


import cv2
import numpy as np

from data_pipelines.synthetic.parameters import completed, within

GENERATOR_VERSION = 1  # goes up whenever the same parameters give other clips

# Value of a texture, about -1 to 1, at (u, v) in radians (one period = 2 pi). All of them look the
# same in a mirror, so no flip turns one texture into another.
TEXTURES = {
    "stripes": lambda u, v: np.cos(u),
    "bars": lambda u, v: np.cos(v),
    "checks": lambda u, v: 1.3 * np.cos(0.72 * u) * np.cos(0.72 * v),
    "dots": lambda u, v: 2 * np.maximum(np.cos(u), -0.3) * np.maximum(np.cos(v), -0.3) - 0.6,
    "rings": lambda u, v: np.cos(np.hypot(u, v)),
    "waves": lambda u, v: np.cos(v + 1.6 * np.cos(0.35 * u)),
}
# (x, y), y pointing down. The first two are what a horizontal flip leaves alone.
MOTIONS = {"up": (0, -1), "down": (0, 1), "left": (-1, 0), "right": (1, 0)}
SPLITS = ("train", "val")
# Parameters that benchmarks were built without, with what they meant then. At these values they are
# left out of what identifies a benchmark, so that those are still the same.
YOUNGER = {"held_share": 0.0}
PICTURES = 4  # of a held clip

_SIZES = (1.0, 1.11, 1.22)  # short side over the nominal one
_ASPECTS, _ASPECT_SHARES = (1, 4 / 3, 3 / 2, 3 / 4, 2 / 3), (0.2, 0.35, 0.15, 0.2, 0.1)
_RATES = ("10", "12", "15", "24", "25", "30000/1001", "30")


def default_params() -> dict:
    """The parameters, plain values (the fields of config.data.synthetic).

    num_textures, num_motions: their product is the number of classes, at most 6 x 4.
    train_clips, val_clips: number of files; classes are balanced.
    short_side: nominal short side in pixels; clips have 1, 1.11 or 1.22 times as much.
    min_frames, max_frames: length of a clip, uniform. For 8 segments the reference's training
      sampler uses the first 8 * (N // 8) of N frames; from 16 on they hold the decisive frame.
    min_period, max_period: period of the textures in pixels at the nominal short side, uniform.
    contrast: amplitude of the texture of the easiest clips, in grey levels.
    difficulty: the difficulty of a clip is uniform from 0 to this; at most 1.
    late_share: share of clips whose motion or texture appears late.
    seed: another seed gives another benchmark of the same kind.
    held_share: share of clips that show four pictures only, each held for a quarter of the clip.
    """
    return dict(num_textures=4, num_motions=4, train_clips=3000, val_clips=800, short_side=72,
                min_frames=16, max_frames=32, min_period=3.0, max_period=3.8, contrast=60.0,
                difficulty=0.5, late_share=0.3, seed=0, **YOUNGER)


def check_params(params) -> dict:
    """Returns the given parameters completed with the defaults, as plain values.

    Raises:
        DataError: an unknown parameter (with close matches), or a value that cannot work.
    """
    checked = completed(params, default_params())
    limits = dict(
        num_textures=(1, len(TEXTURES)), num_motions=(1, len(MOTIONS)), train_clips=(1, 10**7),
        val_clips=(1, 10**7), short_side=(32, 1080), min_frames=(2, checked["max_frames"]),
        max_frames=(2, 10**4), min_period=(2, checked["max_period"]), max_period=(2, 64),
        contrast=(1, 100), difficulty=(0, 1), late_share=(0, 1), seed=(0, 2**32 - 1),
        held_share=(0, 1))
    return within(checked, limits)


def class_names(params: dict) -> list[str]:
    """Class names in the order of their labels: ['bars_down', 'bars_left', ...]."""
    return sorted(f"{texture}_{motion}" for texture in list(TEXTURES)[:params["num_textures"]]
                  for motion in list(MOTIONS)[:params["num_motions"]])


# --------------------------------------------------------------------------------------- one clip
def make_clip(params: dict, split: str, index: int) -> tuple[dict, np.ndarray]:
    """Returns (factors, frames) of a clip: see `draw_factors`; uint8 (T, H, W, 3) RGB."""
    factors, rng = draw_factors(params, split, index)
    return factors, _render(factors, rng)


def draw_factors(params: dict, split: str, index: int) -> tuple[dict, np.random.Generator]:
    """Draws what generates a clip.

    Args:
        params: from `check_params`.
        split: 'train' or 'val'.
        index: number of the clip; its label is the index modulo the number of classes.

    Returns:
        Plain values (a row of the csv file), and the clip's generator, which draws the pixels next.
        Lengths (travel, spacing) are in short sides, times (onset, moving, reveal) in clip lengths,
        `period` in pixels of the file, `contrast` and `noise` in grey levels; `clutter` and
        `occlusion` count objects, `shake` is the largest offset in pixels; `decisive_frame` is the
        first one that shows the texture and a displacement of at least 6 % of the short side;
        `static_share` is the share of consecutive frames between which the patches stand still;
        `pictures` (with `held_share` only) counts the frames that do not just repeat another one.
    """
    rng = np.random.default_rng([GENERATOR_VERSION, params["seed"], SPLITS.index(split), index])
    names = class_names(params)
    label = index % len(names)
    texture, motion = names[label].split("_")
    difficulty = rng.uniform() * params["difficulty"]

    def between(easy, hard):
        return easy + (hard - easy) * difficulty

    scale = rng.choice(_SIZES)
    side = params["short_side"] * scale
    aspect = rng.choice(_ASPECTS, p=_ASPECT_SHARES)
    num_frames = int(rng.integers(params["min_frames"], params["max_frames"] + 1))

    # The row is periodic: between two of eight evenly spread frames it must move by less than a
    # quarter of the spacing, or its direction would be ambiguous.
    spacing = rng.uniform(0.8, 1.05)
    redundancy = rng.choice(["slow", "fast", "burst"])
    late = rng.choice(["motion", "texture"]) if rng.uniform() < params["late_share"] else ""
    onset = rng.uniform(0.25, 0.5) if late == "motion" else 0.0
    reveal = rng.uniform(0.25, 0.6) if late == "texture" else 0.0
    if redundancy == "burst":
        onset = onset or rng.uniform(0.0, 0.25)
        moving, travel = rng.uniform(0.3, 0.45), rng.uniform(0.3, 0.45)
    elif redundancy == "fast":
        moving = 1 - onset
        travel = 8 * moving * spacing * rng.uniform(0.14, 0.22)
    else:
        moving, travel = 1 - onset, rng.uniform(0.35, 0.6)

    factors = dict(
        label=label, texture=texture, motion=motion, difficulty=round(difficulty, 4),
        redundancy=str(redundancy), late=str(late), width=2 * round(side * max(1, aspect) / 2),
        height=2 * round(side * max(1, 1 / aspect) / 2), frames=num_frames,
        fps=str(rng.choice(_RATES)), onset=round(onset, 4), moving=round(moving, 4),
        travel=round(travel, 4), reveal=round(reveal, 4), spacing=round(spacing, 4),
        period=round(scale * rng.uniform(params["min_period"], params["max_period"]), 4),
        contrast=round(params["contrast"] * between(1.0, 0.25) * rng.uniform(0.85, 1.0), 2),
        clutter=int(rng.integers(1 + round(between(1, 5)))),
        occlusion=int(rng.integers(1 + round(between(0, 3)))),
        shake=int(rng.integers(1 + round(between(0, 4)))),
        noise=round(rng.uniform(1.0, between(2.0, 14.0)), 2),
        crf=int(rng.integers(17, 1 + round(between(20, 32)))), gop=int(rng.choice([6, 12, 48])))
    if params["held_share"]:  # a stream of its own: all else of the clip stays what it is
        own = np.random.default_rng([GENERATOR_VERSION, params["seed"], SPLITS.index(split), index, 1])
        held = own.uniform() < params["held_share"]
        factors["pictures"] = min(PICTURES, num_frames) if held else num_frames
    shown = _shown(factors)
    position = _positions(factors)[shown]
    decided = (np.abs(position) >= 0.06 * side) & (shown >= reveal * num_frames)
    factors["decisive_frame"] = int(decided.argmax()) if decided.any() else num_frames - 1
    factors["static_share"] = round(float(np.mean(np.diff(position) == 0)), 4)
    return factors, rng


def _positions(factors):
    """How far the row of patches has moved, whole pixels, (T,), starting at 0."""
    time = (np.arange(factors["frames"]) + 0.5) / factors["frames"]
    share = np.clip((time - factors["onset"]) / factors["moving"], 0.0, 1.0)
    side = min(factors["width"], factors["height"])
    position = np.rint(share * factors["travel"] * side).astype(int)
    return position - position[0]


def _shown(factors):
    """The frame that each frame repeats, (T,): itself, or the first of its part of a held clip."""
    frames = np.arange(factors["frames"])
    pictures = factors.get("pictures", len(frames))
    length = len(frames) // pictures  # the last part is the longest: all are seen by every sampler
    return np.minimum(frames // length, pictures - 1) * length


def _render(factors, rng):
    """Draws the frames, uint8 (T, H, W, 3). Everything moves by whole pixels: no blur."""
    height, width, num_frames = factors["height"], factors["width"], factors["frames"]
    side, shake = min(height, width), factors["shake"]
    canvas_size = np.array([width, height]) + 2 * shake
    background = _background(rng, *canvas_size[::-1], side)

    dx, dy = MOTIONS[factors["motion"]]
    along, across = canvas_size if dx else canvas_size[::-1]
    plain, textured, mask, loop = _row(rng, factors, side, along)
    first = (across - (mask.shape[0] if dx else mask.shape[1])) // 2
    first += int(side * rng.uniform(-0.1, 0.1))
    starts = (rng.integers(loop) - (dx + dy) * _positions(factors)) % loop
    clutter = [_distractor(rng, factors, side, canvas_size) for _ in range(factors["clutter"])]
    poles = [_pole(rng, side) for _ in range(factors["occlusion"])]

    jitter = np.clip(np.cumsum(rng.integers(-1, 2, (num_frames, 2)), axis=0), -shake, shake) + shake
    # One noise field per clip, read at another offset in every frame: cheaper than new noise.
    noise = rng.normal(0, factors["noise"], (height + 31, width + 31))
    noise = cv2.merge([np.rint(noise).astype(np.int16)] * 3)
    noise_at = rng.integers(32, size=(num_frames, 2))

    frames = np.empty((num_frames, height, width, 3), np.uint8)
    shown = _shown(factors)
    for t in range(num_frames):
        if shown[t] < t:
            frames[t] = frames[shown[t]]
            continue
        canvas = background.copy()
        for patch, patch_mask, origin, velocity, wrap in clutter:
            x, y = ((origin + t * velocity) % wrap).astype(int) - patch_mask.shape[0]
            _paste(canvas, patch, patch_mask, x, y)
        row = plain if t < factors["reveal"] * num_frames else textured
        span = slice(starts[t], starts[t] + along)
        if dx:
            _paste(canvas, row[:, span], mask[:, span], 0, first)
        else:
            _paste(canvas, row[span], mask[span], first, 0)
        for place, colour in poles:
            canvas[place] = colour
        (y, x), (noise_y, noise_x) = jitter[t], noise_at[t]
        cv2.add(canvas[y:y + height, x:x + width],
                noise[noise_y:noise_y + height, noise_x:noise_x + width],
                dst=frames[t], dtype=cv2.CV_8U)
    return frames


def _background(rng, height, width, side):
    """A smooth colour field under a static texture of medium scale."""
    colours = rng.uniform(60, 190, (4, 5, 1)) + rng.uniform(-35, 35, (4, 5, 3))
    field = cv2.resize(colours.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    cell = side / rng.uniform(5, 9)
    grain = rng.uniform(-1, 1, (int(height / cell) + 2, int(width / cell) + 2)).astype(np.float32)
    grain = cv2.resize(grain, (width, height), interpolation=cv2.INTER_CUBIC)
    field += (grain * rng.uniform(10, 35))[..., None]
    return np.clip(field, 0, 255).astype(np.uint8)


def _row(rng, factors, side, along):
    """The row of patches, periodic along the direction of motion and stored twice in a row there.

    Returns plain and textured (uint8, RGB), a mask, and the period in pixels.
    """
    spacing = int(factors["spacing"] * side)
    count = -(-int(along) // spacing) + 1
    radii = [int(side * rng.uniform(0.24, 0.34)) for _ in range(count)]
    thick = 2 * max(radii)
    vertical = MOTIONS[factors["motion"]][0] == 0
    shape = (count * spacing, thick) if vertical else (thick, count * spacing)
    plain, textured = np.zeros((2, *shape, 3), np.uint8)
    mask = np.zeros(shape, bool)
    for number, radius in enumerate(radii):
        start = number * spacing + (spacing - 2 * radius) // 2
        place = (slice(start, start + 2 * radius),
                 slice(thick // 2 - radius, thick // 2 + radius))
        place = place if vertical else place[::-1]
        plain[place], textured[place], mask[place] = _patch(
            rng, factors["texture"], radius, factors["period"], factors["contrast"])
    axis = 0 if vertical else 1
    return (*(np.concatenate([a, a], axis) for a in (plain, textured, mask)), count * spacing)


def _patch(rng, texture, radius, period, contrast):
    """Plain and textured (2r, 2r, 3) uint8 and the mask (2r, 2r) of one patch."""
    axis = np.arange(2 * radius) - radius + 0.5
    x, y = axis[None, :], axis[:, None]
    angle, scale = rng.uniform(-0.2, 0.2), 2 * np.pi / period
    u = (x * np.cos(angle) + y * np.sin(angle)) * scale + rng.uniform(0, 2 * np.pi)
    v = (y * np.cos(angle) - x * np.sin(angle)) * scale + rng.uniform(0, 2 * np.pi)
    power = rng.choice([1.0, 2.0, 3.0, 8.0])  # diamond, disc, rounded, square
    distance = (np.abs(x / radius) ** power + np.abs(y / radius) ** power) ** (1 / power)
    plain = np.full((2 * radius, 2 * radius, 3), rng.uniform(95, 160) + rng.uniform(-25, 25, 3))
    textured = plain + (contrast * TEXTURES[texture](u, v))[..., None]
    # A rim, dark or bright: motion can be seen at any resolution, whatever becomes of the texture.
    plain[distance > 0.85] = textured[distance > 0.85] = rng.choice([25, 230])
    return plain.astype(np.uint8), np.clip(textured, 0, 255).astype(np.uint8), distance <= 1.0


def _distractor(rng, factors, side, canvas_size):
    """A coarse patch: pixels, mask; (x, y) of origin, velocity and where it wraps around."""
    radius = int(side * rng.uniform(0.12, 0.24))
    _, patch, mask = _patch(rng, rng.choice(list(TEXTURES)), radius,
                            side * rng.uniform(0.13, 0.2), factors["contrast"])
    wrap = canvas_size + 2 * radius  # outside of the canvas
    direction = np.array(list(MOTIONS.values())[rng.integers(len(MOTIONS))])
    moves = rng.uniform() < 0.5
    speed = moves * side * rng.uniform(0.3, 0.8) / factors["frames"]
    return patch, mask, rng.uniform(size=2) * wrap, direction * speed, wrap


def _pole(rng, side):
    """An opaque vertical or horizontal bar in front of everything: index of its place, colour."""
    start, thickness = int(side * rng.uniform(0.1, 0.9)), int(side * rng.uniform(0.07, 0.14))
    span = slice(start, start + thickness)
    place = (slice(None), span) if rng.uniform() < 0.5 else (span, slice(None))
    return place, rng.uniform(30, 225) + rng.uniform(-20, 20, 3)


def _paste(canvas, patch, mask, x, y):
    """Copies a patch into the canvas, its top left corner at (x, y), clipped at the borders."""
    x0, y0 = max(x, 0), max(y, 0)
    x1, y1 = min(x + mask.shape[1], canvas.shape[1]), min(y + mask.shape[0], canvas.shape[0])
    if x0 < x1 and y0 < y1:
        inside = (slice(y0 - y, y1 - y), slice(x0 - x, x1 - x))
        cv2.copyTo(patch[inside], mask[inside].view(np.uint8), canvas[y0:y1, x0:x1])
