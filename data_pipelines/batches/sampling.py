"""Which frames of a video make a clip (ResKD's mmaction2 0.20: SampleFrames and DenseSampleFrames).

N is the number of frames of the video, n the number of clips (segments), L = clip_len · interval
the span of one clip. Offsets are the first frames of the clips; `clip_indices` turns them into
frames. Everything is a pure function of its arguments and, in training, of a numpy Generator.
"""

from collections.abc import Sequence

import numpy as np


def train_offsets(num_frames: int, clip_len: int, interval: int, num_clips: int,
                  rng: np.random.Generator) -> np.ndarray:
    """Random clip offsets for training (n,).

    a = (N - L + 1) // n > 0: one offset inside each of n equal segments. Otherwise, if N exceeds
    both n and L: sorted uniform draws. Otherwise, if a = 0: evenly spread and rounded half to even.
    Otherwise (the video is shorter than a clip): zeros.
    """
    span = clip_len * interval
    starts = num_frames - span + 1
    segment = starts // num_clips
    if segment > 0:
        return np.arange(num_clips) * segment + rng.integers(0, segment, num_clips)
    if num_frames > max(num_clips, span):
        return np.sort(rng.integers(0, starts, num_clips))
    if segment == 0:
        return np.around(np.arange(num_clips) * (starts / num_clips)).astype(np.int64)
    return np.zeros(num_clips, np.int64)


def test_offsets(num_frames: int, clip_len: int, interval: int, num_clips: int,
                 twice: bool = False) -> np.ndarray:
    """Fixed clip offsets for testing: the middles of n equal segments, (n,).

    With `twice` the beginnings of the segments follow, (2n,); not for videos shorter than a clip,
    for which the reference returns n zeros.
    """
    starts = num_frames - clip_len * interval + 1
    if starts < 1:
        return np.zeros(num_clips, np.int64)
    segment = starts / num_clips
    begins = np.arange(num_clips) * segment
    offsets = begins + segment / 2
    return np.concatenate([offsets, begins] if twice else [offsets]).astype(np.int64)


def dense_test_offsets(num_frames: int, num_clips: int, sample_range: int,
                       num_positions: int) -> np.ndarray:
    """DenseSampleFrames in test mode: n offsets spread over a window of `sample_range` frames.

    The window is placed at `num_positions` evenly spread positions and wraps around,
    (num_positions · n,).
    """
    first_starts = np.linspace(0, max(0, num_frames - sample_range), num_positions, dtype=np.int64)
    steps = np.arange(num_clips) * (sample_range // num_clips)
    return ((first_starts[:, None] + steps) % num_frames).reshape(-1)


def clip_indices(offsets: Sequence[int], clip_len: int, interval: int, num_frames: int,
                 out_of_bound: str = "loop") -> np.ndarray:
    """Frame indices of every clip, (n, clip_len), counted from 0.

    Args:
        offsets: first frame of every clip, (n,).
        clip_len, interval: frames of a clip and their distance.
        num_frames: N; indices beyond it wrap around ('loop') or stay at the last valid frame of their
            clip ('repeat_last').
    """
    indices = np.asarray(offsets, np.int64)[:, None] + np.arange(clip_len) * interval
    if out_of_bound == "loop":
        return indices % num_frames
    assert out_of_bound == "repeat_last", out_of_bound
    inside = indices < num_frames
    last = np.where(inside, indices, 0).max(axis=1, keepdims=True)
    return np.where(inside, indices, last)


def around(key_frame: int, clip_len: int, interval: int, num_frames: int) -> np.ndarray:
    """Frames around one that is asked about, (clip_len,): it is number clip_len // 2 of them.

    Beyond the video its first and its last frame are repeated. -1 stands for the middle of the video.
    """
    middle = num_frames // 2 if key_frame < 0 else key_frame
    return (middle + (np.arange(clip_len) - clip_len // 2) * interval).clip(0, num_frames - 1)


def sample_train(options, num_frames: int, rng: np.random.Generator, key_frame: int = -1) -> np.ndarray:
    """Frame indices of one training clip, (T,): data.sampling 'segments', 'dense' or 'around' a key frame."""
    if options.sampling == "around":
        return around(key_frame, options.num_frames, options.frame_interval, num_frames)
    if options.sampling == "segments":
        return train_offsets(num_frames, 1, 1, options.num_frames, rng) % num_frames
    offsets = train_offsets(num_frames, options.num_frames, options.frame_interval, 1, rng)
    return clip_indices(offsets, options.num_frames, options.frame_interval, num_frames)[0]


def sample_test(options, num_frames: int, key_frame: int = -1) -> np.ndarray:
    """Frame indices of all test clips, (num_test_clips(options), T)."""
    if options.sampling == "around":
        return around(key_frame, options.num_frames, options.frame_interval, num_frames)[None]
    if options.sampling == "segments":
        offsets = test_offsets(num_frames, 1, 1, options.num_frames, options.twice_sample)
        return offsets.reshape(-1, options.num_frames)
    offsets = test_offsets(num_frames, options.num_frames, options.frame_interval,
                           options.test_clips, options.twice_sample)
    offsets = np.resize(offsets, num_test_clips(options))  # every video gives as many clips
    return clip_indices(offsets, options.num_frames, options.frame_interval, num_frames)


def num_test_clips(options) -> int:
    """Clips per video in evaluation."""
    return options.test_clips * (2 if options.twice_sample else 1)
