"""Reads a network that `--mode=export` wrote, with jax, numpy and flatbuffers (for jax) alone.

A copy of this file lies in every export folder as `load.py`:

    from load import load
    model = load(".")
    clips = model.prepare(frames)        # needs cv2; frames uint8 (N, H, W, 3), RGB, the whole video in order
    probabilities, gmacs = model(clips)  # of every view; average the probabilities of a video's views
    model.stop_early(clips[0])           # of a network with early exits: (probabilities, gmacs, exit)

Probabilities that are not finite are an error.
"""

import json
import os

import jax
import numpy as np
from jax import export

PROGRAM, WEIGHTS, INFO, SEGMENT = "model.jaxexport", "weights.npz", "model.json", "segment{}.jaxexport"


class Loaded:
    """An exported network.

    Attributes:
        info: the content of `model.json`.
        class_names: K names.
    """

    def __init__(self, path):
        with open(os.path.join(path, INFO)) as f:
            self.info = json.load(f)
        with np.load(os.path.join(path, WEIGHTS)) as arrays:
            self._weights = jax.device_put(dict(arrays))
        self._call, self.class_names = self._program(path, PROGRAM), self.info["class_names"]
        steps = self.info.get("exits", {}).get("steps", [])
        self._segments = [self._program(path, SEGMENT.format(k)) for k in range(1, len(steps) + 1)]

    @staticmethod
    def _program(path, name):
        with open(os.path.join(path, name), "rb") as f:
            return jax.jit(export.deserialize(bytearray(f.read())).call)

    def __call__(self, clips, check=True):
        """Answers a batch; compiles once for every batch size.

        Args:
            clips: uint8 RGB (B, T, H, W, 3), sizes as `info["input"]["shape"]` says.
            check: whether the result is waited for and checked; never while this is traced.

        Returns:
            Outputs (`info["output"]`), for classification probabilities float32 (B, K), and multiply-adds in
            10^9 per clip (B,).

        Raises:
            ValueError: another shape or type; a result that is not finite.
        """
        shape = tuple(self.info["input"]["shape"][1:])
        if clips.ndim != 5 or tuple(clips.shape[1:]) != shape or clips.dtype != np.uint8:
            raise ValueError(f"clips are {clips.dtype} {tuple(clips.shape)}; this network takes uint8 "
                             f"(B, {', '.join(map(str, shape))}).")
        result = self._call(self._weights, clips)
        if check and not isinstance(result[0], jax.core.Tracer):
            for what, x in zip(("probabilities", "gmacs"), result):
                self._finite(what, np.asarray(x, np.float32).reshape(len(x), -1))
        return result

    def stop_early(self, clip):
        """Answers one clip of a network with early exits, and computes only what it needs.

        Args:
            clip: uint8 (T, H, W, 3); or a function: positions -> these frames of the clip, (n, H, W, 3),
                asked only for frames that are needed.

        Returns:
            probabilities float32 (K,), multiply-adds in 10^9, number of the exit that answered, from 1.

        Raises:
            ValueError: the network has no exits; a result that is not finite.
        """
        if not self._segments:
            raise ValueError("this network has no early exits: call it.")
        exits, state = self.info["exits"], {}
        for k, (run, (start, stop)) in enumerate(zip(self._segments, exits["steps"])):
            frames = []
            if stop > start:
                positions = exits["order"][start:stop]
                frames = [np.asarray(clip(positions) if callable(clip) else clip[positions])[None]]
            state, probabilities, score = run(self._weights, state, *frames)
            if k == len(self._segments) - 1 or float(score[0]) >= exits["thresholds"][k]:
                self._finite("probabilities", np.asarray(probabilities))
                gmacs = float(state["gmacs"][0]) if exits.get("own_gmacs") else exits["gmacs"][k]
                return np.asarray(probabilities)[0], gmacs, k + 1

    def prepare(self, frames):
        """The clips that the network was evaluated on, of any video, as `info["preprocessing"]` says.

        Args:
            frames: uint8 RGB (N, H, W, 3), all frames of the video in order; needs the package cv2 (OpenCV).

        Returns:
            uint8 (views, T, side, side, 3): first crop of all clips, then the next crop.
        """
        import cv2

        how = self.info["preprocessing"]
        indices = frame_indices(len(frames), **how["frames"])
        height, width = frames.shape[1:3]
        scale, side = how["resize_short_side"] / min(height, width), how["crop_size"]
        h, w = int(height * scale + 0.5), int(width * scale + 0.5)
        small = {i: frames[i] if (h, w) == (height, width) else cv2.resize(frames[i], (w, h))
                 for i in set(indices.ravel().tolist())}
        views = []
        for left, top, across, down in crop_boxes(h, w, how["crop"], side):
            border = [max(0, x) for x in (-top, top + down - h, -left, left + across - w)]
            cut = {}
            for i, frame in small.items():
                frame = frame[max(0, top):max(0, top + down), max(0, left):max(0, left + across)]
                if any(border):
                    frame = cv2.copyMakeBorder(frame, *border, cv2.BORDER_CONSTANT, value=(124, 116, 104))
                frame = frame if frame.shape[:2] == (side, side) else cv2.resize(frame, (side, side))
                if q := how.get("quality"):
                    frame = cv2.resize(cv2.resize(frame, (q, q)), (side, side))
                cut[i] = frame
            views += [np.stack([cut[i] for i in clip]) for clip in indices.tolist()]
        return np.stack(views)

    def _finite(self, what, rows):
        bad = ~np.isfinite(rows).all(axis=1)
        if bad.any():
            raise ValueError(
                f"{what} of clips {np.flatnonzero(bad)[:8].tolist()} of this batch ({bad.sum()} of "
                f"{len(bad)}) are not finite: the weights of this network ({self.info['name']}, step "
                f"{self.info['step']}) are damaged or diverged; export an earlier saved step.")


def frame_indices(count, sampling, num_frames, frame_interval, test_clips, twice_sample):
    """Numbers of the frames of every clip, (clips, num_frames), of a video of `count` frames."""
    if sampling == "around":
        steps = (np.arange(num_frames) - num_frames // 2) * frame_interval
        return (count // 2 + steps).clip(0, count - 1)[None]
    clips, length = (num_frames, 1) if sampling == "segments" else (test_clips, num_frames)
    starts = count - length * frame_interval + 1
    if starts < 1:
        first = np.zeros(clips, np.int64)
    else:
        begins = np.arange(clips) * (starts / clips)
        middles = begins + starts / clips / 2
        first = np.concatenate([middles, begins] if twice_sample else [middles]).astype(np.int64)
    if sampling == "segments":
        return first.reshape(-1, num_frames)
    first = np.resize(first, clips * (2 if twice_sample else 1))
    return (first[:, None] + np.arange(length) * frame_interval) % count


def crop_boxes(height, width, crop, side):
    """(left, top, width, height) of the crops of a resized frame; 'pad' reaches beyond it."""
    if crop == "whole":
        return [(0, 0, width, height)]
    if crop == "three":
        step = (max(height, width) - side) // 2
        return [(x, 0, side, side) if side == height else (0, x, side, side) for x in (0, 2 * step, step)]
    size = max(height, width) if crop == "pad" else side
    return [((width - size) // 2, (height - size) // 2, size, size)]


def load(path):
    """Reads what `--mode=export` wrote; `path` is the folder, or the `model.jaxexport` in it."""
    path = os.fspath(path)
    return Loaded(os.path.dirname(path) if path.endswith(PROGRAM) else path)
