"""Geometry of clips on numpy arrays (T, H, W, C), as in ResKD's mmaction2 0.20 and mmcv 1.4.

Resizing is OpenCV's bilinear interpolation of uint8 without antialiasing, frame by frame. Sizes are
(height, width); boxes are (left, top, width, height) in pixels. Random functions take a numpy
Generator and decide once per clip.
"""

import math

import cv2
import numpy as np

from data_pipelines.batches.placing import Place, crop
from data_pipelines.batches.randaugment import randaugment

MULTI_SCALES = (1, 0.875, 0.75, 0.66)
MEAN_RGB = (123.675, 116.28, 103.53)  # of ImageNet, on 0 .. 255
STD_RGB = (58.395, 57.12, 57.375)


def short_side_size(height: int, width: int, short_side: int) -> tuple[int, int]:
    """(height, width) with the given short side and the same aspect, rounded like mmcv."""
    scale = short_side / min(height, width)
    return int(height * scale + 0.5), int(width * scale + 0.5)


def resize(frames_THWC: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resizes every frame to (height, width)."""
    if frames_THWC.shape[1:3] == (height, width):
        return frames_THWC
    output = np.empty((len(frames_THWC), height, width, frames_THWC.shape[3]), frames_THWC.dtype)
    for frame, target in zip(frames_THWC, output, strict=True):
        resize_frame(frame, target)
    return output


def resize_frame(frame_HWC: np.ndarray, target_HWC: np.ndarray) -> None:
    """Resizes a frame to the size of the array that it is written to."""
    if frame_HWC.shape == target_HWC.shape:
        target_HWC[:] = frame_HWC
    else:
        cv2.resize(frame_HWC, target_HWC.shape[1::-1], dst=target_HWC, interpolation=cv2.INTER_LINEAR)


def resize_short_side(frames_THWC: np.ndarray, short_side: int) -> np.ndarray:
    """Resizes so that the short side is `short_side`, keeping the aspect."""
    return resize(frames_THWC, *short_side_size(*frames_THWC.shape[1:3], short_side))


def small_frame(short_side: int, frame_HWC: np.ndarray) -> np.ndarray:
    """`resize_short_side` of a single frame."""
    return resize_short_side(frame_HWC[None], short_side)[0]


def lower_quality(frames_THWC: np.ndarray, side: int) -> np.ndarray:
    """Frames with the detail of `side` x `side` pixels in their own size: shrunk, then enlarged; 0: as is."""
    height, width = frames_THWC.shape[1:3]
    return resize(resize(frames_THWC, side, side), height, width) if side else frames_THWC


def center_box(height: int, width: int, size: int) -> tuple[int, int, int, int]:
    """The centred square of side `size`."""
    return (width - size) // 2, (height - size) // 2, size, size


def three_boxes(height: int, width: int, size: int) -> list[tuple[int, int, int, int]]:
    """Three squares along the long side: first, last, middle. `size` must be the short side."""
    assert size == min(height, width), (height, width, size)
    if size == height:
        step = (width - size) // 2
        return [(x, 0, size, size) for x in (0, 2 * step, step)]
    step = (height - size) // 2
    return [(0, y, size, size) for y in (0, 2 * step, step)]


def multi_scale_sizes(height: int, width: int) -> list[tuple[int, int]]:
    """The candidate (width, height) of a multi-scale crop: close scales of the short side."""
    sides = [int(min(height, width) * scale) for scale in MULTI_SCALES]
    return [(w, h) for i, h in enumerate(sides) for j, w in enumerate(sides) if abs(i - j) <= 1]


def snap_size(size: tuple[int, int], target: int) -> tuple[int, int]:
    """Sides within 2 pixels of the target (the reference's `input_size`) become it."""
    return tuple(target if abs(side - target) < 3 else side for side in size)


def multi_scale_offsets(height: int, width: int, size: tuple[int, int]) -> list[tuple[int, int]]:
    """The 13 places (left, top) for a crop of (width, height) `size`, on a grid of four steps."""
    x, y = (width - size[0]) // 4, (height - size[1]) // 4
    steps = [(0, 0), (4, 0), (0, 4), (4, 4), (2, 2),
             (0, 2), (4, 2), (2, 4), (2, 0), (1, 1), (3, 1), (1, 3), (3, 3)]
    return [(i * x, j * y) for i, j in steps]


def multi_scale_box(height: int, width: int, target: int,
                    rng: np.random.Generator) -> tuple[int, int, int, int]:
    """A uniformly drawn multi-scale crop (TSN): one of 10 sizes at one of 13 places."""
    sizes = multi_scale_sizes(height, width)
    size = snap_size(sizes[rng.integers(len(sizes))], target)
    left, top = multi_scale_offsets(height, width, size)[rng.integers(13)]
    return left, top, *size


def random_resized_box(height: int, width: int, rng: np.random.Generator,
                       area=(0.08, 1.0), aspect=(3 / 4, 4 / 3)) -> tuple[int, int, int, int]:
    """Random area and aspect at a uniform place; the largest centred square if 10 draws fail."""
    aspects = np.exp(rng.uniform(math.log(aspect[0]), math.log(aspect[1]), 10))
    areas = rng.uniform(*area, 10) * height * width
    for w, h in zip(np.round(np.sqrt(areas * aspects)).astype(int),
                    np.round(np.sqrt(areas / aspects)).astype(int), strict=True):
        if w <= width and h <= height:
            left, top = rng.integers(0, width - w + 1), rng.integers(0, height - h + 1)
            return int(left), int(top), int(w), int(h)
    return center_box(height, width, min(height, width))


def jitter_box(height: int, width: int, rng: np.random.Generator,
               most: float = 0.2) -> tuple[int, int, int, int]:
    """The frame with each edge moved in or out by up to a share of its side (YOLOv2's, and YOWO's 0.2)."""
    across, down = int(width * most), int(height * most)
    left, right = rng.integers(-across, across + 1, 2)
    top, bottom = rng.integers(-down, down + 1, 2)
    return int(left), int(top), int(width - left - right), int(height - top - bottom)


def random_scale_box(height: int, width: int, options, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """A square of `data.crop` pixels out of the image in a random one of `data.short_sides`.

    Where the image is smaller than the square, its place in it is random, and the rest is beyond the image.
    This is the form in one shape of what CSAILVision/semantic-segmentation-pytorch does (`dataset.py`), which
    pads whole images to the largest of a batch; ours.

    Args:
        height, width: of the frames, whose short side is `data.short_side`.
        options: the data configuration.
        rng: draws short side and place.
    """
    short_side = options.short_sides[rng.integers(len(options.short_sides))]
    side = max(1, round(options.crop * min(height, width) / short_side))
    left, top = (int(rng.integers(min(0, n - side), max(0, n - side) + 1)) for n in (width, height))
    return left, top, side, side


def normalize(frames: np.ndarray, mean=MEAN_RGB, std=STD_RGB) -> np.ndarray:
    """(frames - mean) / std per channel in float32. Training does this on the device."""
    return ((frames.astype(np.float32) - np.float32(mean)) / np.float32(std)).astype(np.float32)


def cut(frames_THWC: np.ndarray, place: Place, quality: int = 0) -> np.ndarray:
    """Crop → (side, side) → quality → flip, the same for all frames of a clip."""
    frames = lower_quality(resize(crop(frames_THWC, place.box), place.side, place.side), quality)
    return frames[:, :, ::-1] if place.flipped else frames


def train_place(options, height: int, width: int, rng: np.random.Generator) -> Place:
    """Draws what is cut out of resized frames for training, one decision for all frames of the clip."""
    if options.train_crop == "multi_scale":
        box = multi_scale_box(height, width, options.snap_side or options.crop, rng)
    elif options.train_crop == "random_resized":
        box = random_resized_box(height, width, rng)
    elif options.train_crop == "jitter":
        box = jitter_box(height, width, rng)
    elif options.train_crop == "random_scale":
        box = random_scale_box(height, width, options, rng)
    elif options.train_crop == "whole":
        box = (0, 0, width, height)
    else:
        box = center_box(height, width, options.crop)
    return Place((height, width), box, options.crop, bool(options.flip and rng.random() < 0.5))


def test_places(options, height: int, width: int) -> list[Place]:
    """What is cut out of resized frames in evaluation, a `Place` each test crop."""
    size = options.test_crop_size
    if options.test_crop == "three":
        boxes = three_boxes(height, width, size)
    elif options.test_crop == "whole":
        boxes = [(0, 0, width, height)]
    elif options.test_crop == "pad":
        boxes = [center_box(height, width, max(height, width))]
    else:
        boxes = [center_box(height, width, size)]
    return [Place((height, width), box, size) for box in boxes]


def cut_for_training(options, frames_THWC: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, Place]:
    """Short side → crop → (crop, crop) → quality → flip → RandAugment; the clip, and where it lies."""
    frames = resize_short_side(frames_THWC, options.short_side)
    place = train_place(options, *frames.shape[1:3], rng)
    frames = cut(frames, place, options.quality)
    if options.randaugment:
        frames = randaugment(frames, options.randaugment, options.randaugment_magnitude, rng)
    return frames, place


def augment_train(options, frames_THWC: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The clip of `cut_for_training` alone."""
    return cut_for_training(options, frames_THWC, rng)[0]


def crops_for_test(options, frames_THWC: np.ndarray) -> list[np.ndarray]:
    """Short side → the test crops → quality, each (T, test_crop_size, test_crop_size, C)."""
    frames = resize_short_side(frames_THWC, options.test_short_side)
    return [cut(frames, place, options.quality) for place in test_places(options, *frames.shape[1:3])]


def num_test_crops(options) -> int:
    """Crops per clip in evaluation."""
    return 3 if options.test_crop == "three" else 1
