"""What every reader of one video offers."""

import abc
from collections.abc import Callable, Sequence

import numpy as np

from data_pipelines.errors import VideoError

Each = Callable[[np.ndarray], np.ndarray]


class VideoReader(abc.ABC):
    """Base of all readers.

    Attributes:
        num_frames: number of frames, at least 1.
        fps: frames per second, 0.0 if unknown.
        stored_size: (height, width) of the stored frames, before rotation.
    """
    num_frames: int
    fps: float
    stored_size: tuple[int, int]

    @abc.abstractmethod
    def get(self, indices: Sequence[int], each: Each | None = None) -> np.ndarray:
        """Returns uint8 RGB frames (len(indices), H, W, 3) in the given order; repeats are fine.

        Args:
            indices: of the frames.
            each: makes another picture of a frame (H, W, 3) as soon as it is read, such as a smaller one:
                large frames are never in memory together. Of indices that increase it is called once for
                each of them, in their order.
        """

    def close(self) -> None:
        """Releases the file; the reader cannot be used afterwards."""

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()


def assemble(indices: Sequence[int], num_frames: int, name: str, read: Callable[[int], np.ndarray],
             each: Each | None = None) -> np.ndarray:
    """Reads every distinct index once, in increasing order, and stacks them in the order given."""
    indices = np.asarray(indices, np.int64)
    if indices.size == 0 or indices.min() < 0 or indices.max() >= num_frames:
        raise IndexError(f"{name}: indices {indices.tolist()} are not within {num_frames} frames")
    distinct, inverse = np.unique(indices, return_inverse=True)
    output = shape = None
    for position, index in enumerate(distinct):
        frame = read(int(index))
        shape = shape or frame.shape
        if frame.shape != shape:
            raise VideoError(name, f"frame {index} has shape {frame.shape}, not {shape}")
        frame = each(frame) if each else frame
        if output is None:
            output = np.empty((len(indices), *frame.shape), np.uint8)
        output[inverse == position] = frame
    return output
