"""Where a network with a glance looks closely: frames of videos with its crops drawn in.

    python -m effvid_jax.analysis.crops --workdir=RUN                # AdaFocus V2, Uni-AdaFocus
    python -m effvid_jax.analysis.crops --workdir=RUN --clips=20 --split=train

Frames that are not looked at closely are dimmed. Writes `crops_<split>.png` and `.svg`, and `.csv`: a line a
crop with its video, frame (of the clip, from 0), upper left corner, height and width in shares of the frame,
and the answer to the video. The crops are those of full inference, whether or not the video would stop early.
"""

from __future__ import annotations

import json
import os
import sys

import jax
import numpy as np
import tabulate

from effvid_jax import writers
from effvid_jax.analysis import drawing, opening, overlay
from effvid_jax.errors import UserError

EDGE = (255, 196, 0)  # of a crop
DIM = 0.35  # brightness of what is not looked at closely


def draw(frames_THWC: np.ndarray, crops_F4: np.ndarray, chosen_F) -> np.ndarray:
    """Frames uint8 (T, H, W, 3): a crop bright with an edge, everything else dimmed.

    Args:
        frames_THWC: uint8.
        crops_F4: y, x, height, width in shares of the frame.
        chosen_F: the frame of each.
    """
    found = np.rint(frames_THWC * DIM).astype(np.uint8)
    size = np.array(frames_THWC.shape[1:3] * 2)
    for t, crop in zip(chosen_F, crops_F4, strict=True):
        top, left, height, width = np.rint(crop * size).astype(int)
        bottom, right = top + max(height, 1), left + max(width, 1)
        found[t, top:bottom, left:right] = EDGE
        inside = (t, slice(top + 1, bottom - 1), slice(left + 1, right - 1))
        found[inside] = frames_THWC[inside]
    return found


def analyse(args, opened: opening.Opened) -> None:
    """The command; see the module docstring."""
    predict, classes = jax.jit(opened.method.predict), opened.method.task.class_names
    strips, rows = [], []
    for number, frames in opening.some_clips(opened, args.clips, "crops"):
        prediction = jax.device_get(predict(opened.variables, {"video": frames[None, None]}))
        if "crops" not in prediction.extra:
            raise UserError(f"config.method.name={opened.config.method.name!r} makes no crops: give the "
                            f"workdir of an AdaFocus V2 or Uni-AdaFocus network.")
        crops = prediction.extra["crops"][0, 0]
        chosen = prediction.extra.get("focus_frames", np.arange(len(crops))[None, None])[0, 0]
        entry, answer = opened.split.entry(number), classes[int(prediction.logits[0].argmax())]
        shown = overlay.chosen(len(chosen))  # of many frames those that are looked at
        strips.append([(overlay.strip(draw(frames, crops, chosen)[chosen[shown]]),
                        (entry.name, f"says {answer}", "frames " + " ".join(map(str, chosen[shown]))))])
        rows += [{"video": entry.name, "frame": int(t), "answer": answer,
                  **{name: float(f"{x:.4g}") for name, x in zip(("y", "x", "height", "width"), crop)}}
                 for t, crop in zip(chosen, crops)]
    path = os.path.join(opened.out, f"crops_{opened.split.name}")
    writers.write_csv(f"{path}.csv", rows)
    drawing.write(overlay.strips(strips, ""), path)
    columns = {name: np.array([row[name] for row in rows]) for name in ("y", "x", "height", "width")}
    print(tabulate.tabulate([[name, x.mean(), x.std()] for name, x in columns.items()],
                            ["share of the frame", "mean", "spread"], "github", floatfmt=".3f"))
    means = {name: float(f"{x.mean():.4g}") for name, x in columns.items()}
    print(json.dumps({"crops": f"{path}.csv", **means}))


def main(argv=None) -> int:
    """The command line."""
    parser = opening.parser("crops", __doc__)
    parser.add_argument("--clips", type=int, default=6, help="videos, spread over the split; 0: all")
    return opening.run(parser, analyse, argv)


if __name__ == "__main__":
    sys.exit(main())
