"""Small video files whose frames carry their number, for the tests of the data pipelines."""

from fractions import Fraction

import av
import numpy as np
from ml_collections import ConfigDict

_BITS = 8


def numbered_frames(count: int, size=(64, 48), seed: int = 0) -> np.ndarray:
    """uint8 (count, H, W, 3) of `size` (width, height): moving texture, number in 8 squares."""
    width, height = size
    rng = np.random.default_rng(seed)
    texture = rng.integers(60, 200, (height, width, 3), dtype=np.uint8)
    frames = np.stack([np.roll(texture, i, axis=1) for i in range(count)])
    frames[:, :10, :8 * _BITS] = 0
    for i in range(count):
        for bit in range(_BITS):
            if i >> bit & 1:
                frames[i, :10, 8 * bit:8 * bit + 8] = 255
    return frames


def read_numbers(frames: np.ndarray) -> list[int]:
    """The numbers painted into frames (T, H, W, 3)."""
    squares = [frames[:, 3:7, 8 * bit + 2:8 * bit + 6].mean(axis=(1, 2, 3)) > 128
               for bit in range(_BITS)]
    return (np.stack(squares, 1) @ (1 << np.arange(_BITS))).tolist()


def write_video(path, frames: np.ndarray, *, fps=25, codec="libx264", pix_fmt="yuv420p", times=None,
                options=None, container_options=None) -> str:
    """Writes frames to `path`, whose ending is the container; times in ms: variable rate."""
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=fps)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pix_fmt
        stream.codec_context.thread_count = 1
        defaults = {"preset": "veryfast", "crf": "20", "g": "12", "bf": "2"}
        stream.options = defaults | (options or {}) if codec == "libx264" else options or {}
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for i, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = int(times[i]), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return str(path)


def patch_rotation(path, degrees_clockwise: int) -> None:
    """Writes a turn into the track header of an mp4, as phones do."""
    a, b = {90: (0, 1), 180: (-1, 0), 270: (0, -1)}[degrees_clockwise]
    patch_matrix(path, a, b, -b, a)


def patch_matrix(path, a: float, b: float, c: float, d: float) -> None:
    """Writes a display matrix into the track header of an mp4: (x, y) is shown at (ax + cy, bx + dy)."""
    with open(path, "rb") as file:
        data = bytearray(file.read())
    a, b, c, d = (round(value * (1 << 16)) for value in (a, b, c, d))
    values = [a, b, 0, c, d, 0, 0, 0, 1 << 30]
    start = data.index(b"tkhd") + 4 + 40  # version 0: the matrix follows 40 bytes of other fields
    data[start:start + 36] = b"".join(value.to_bytes(4, "big", signed=True) for value in values)
    with open(path, "wb") as file:
        file.write(data)


def write_tracks(path, *tracks: np.ndarray, default: tuple = (), cover: int | None = None) -> str:
    """Writes several video tracks; numbers of those flagged default and of a picture on a cover."""
    with av.open(str(path), "w") as container:
        streams = []
        for i, frames in enumerate(tracks):
            stream = container.add_stream("mjpeg" if i == cover else "libx264", rate=25)
            stream.height, stream.width = frames.shape[1:3]
            stream.pix_fmt = "yuvj420p" if i == cover else "yuv420p"
            stream.codec_context.thread_count = 1
            flags = av.stream.Disposition
            if default or i == cover:
                stream.disposition = (flags.attached_pic if i == cover else
                                      flags.default if i in default else flags(0))
            streams.append(stream)
        for stream, frames in zip(streams, tracks, strict=True):
            for image in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            container.mux(stream.encode(None))
    return str(path)


def data_config(**changes) -> ConfigDict:
    """A data configuration with every field, for clips of 64 x 48 pixels."""
    fields = dict(
        source="folder", root="", train_list="", val_list="", tfds_name="", list_format="video",
        frame_template="img_{:05}.png", start_index=1, classes_file="", num_classes=0,
        multi_label=False, val_share=0.25, split_seed=0, sampling="segments", num_frames=4,
        frame_interval=1, test_clips=1, twice_sample=False, short_side=36, train_crop="multi_scale",
        crop=32, snap_side=0, short_sides=(), mask_first=0, quality=0, randaugment=0, flip=True,
        test_short_side=36, test_crop="center",
        test_crop_size=32,
        batch_size=8, eval_batch_size=8, seed=0, num_threads=2, num_workers=0, prefetch=4,
        max_broken_share=0.01, cache="none", cache_gib=1.0, synthetic={},
        calib_share=0.0, train_root="", val_root="", views_per_pass=0, fixed_views=0)
    unknown = changes.keys() - fields.keys()
    assert not unknown, unknown
    return ConfigDict(fields | changes)


def class_folders(root, counts, length: int = 12, size=(64, 48)) -> None:
    """Writes root/<class>/<i>.mp4 for {class: number of clips}; every clip has its own texture."""
    seed = 0
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for i in range(count):
            write_video(root / name / f"{i}.mp4", numbered_frames(length + seed % 5, size, seed))
            seed += 1
