"""What every reader of one video offers."""

import abc
from collections.abc import Callable, Sequence

import numpy as np

from data_pipelines.errors import VideoError


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
    def get(self, indices: Sequence[int]) -> np.ndarray:
        """Returns uint8 RGB frames (len(indices), H, W, 3) in the given order; repeats are fine."""

    def close(self) -> None:
        """Releases the file; the reader cannot be used afterwards."""

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()


def assemble(indices: Sequence[int], num_frames: int, name: str,
             read: Callable[[int], np.ndarray]) -> np.ndarray:
    """Reads every distinct index once, in increasing order, and stacks them in the order given."""
    indices = np.asarray(indices, np.int64)
    if indices.size == 0 or indices.min() < 0 or indices.max() >= num_frames:
        raise IndexError(f"{name}: indices {indices.tolist()} are not within {num_frames} frames")
    distinct, inverse = np.unique(indices, return_inverse=True)
    output = None
    for position, index in enumerate(distinct):
        frame = read(int(index))
        if output is None:
            output = np.empty((len(indices), *frame.shape), np.uint8)
        if frame.shape != output.shape[1:]:
            raise VideoError(name, f"frame {index} has shape {frame.shape}, not {output.shape[1:]}")
        output[inverse == position] = frame
    return output
