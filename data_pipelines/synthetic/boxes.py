"""The embedded benchmark of localisation as files: H.264 videos and lists of boxes, as anybody's would be.

    train/000000.mp4 ...   val/...
    train.csv  val.csv      boxes, in the form of `sources/box_files.py`
    classes.txt  manifest.json

What the clips show is in `moving.py`. Clip i of a split is a pure function of (parameters except the numbers
of clips, split, i).
"""

import functools
from pathlib import Path

from data_pipelines.synthetic import folders
from data_pipelines.synthetic.benchmark import write_video
from data_pipelines.synthetic.moving import GENERATOR_VERSION, SPLITS, check_params, class_names, make_clip
from data_pipelines.tools import atomic_write, parallel


def ensure_built(data_config) -> Path:
    """Builds the benchmark of a configuration unless it is there already; returns its folder.

    Args:
        data_config: the data configuration; `synthetic` has the parameters, `root` is the folder under which
            every set of parameters has its own subfolder.

    Raises:
        DataError: bad parameters; no root, or one that holds something else.
    """
    params = check_params(data_config.synthetic)
    folder = folders.choose(data_config, params, len(class_names(params)),
                            ["boxes", GENERATOR_VERSION, params], "boxes")
    build(folder, params)
    return folder


def build(out, params, workers: int | None = None) -> None:
    """Writes the benchmark into a folder, or completes it there; shows progress on stderr.

    Of several processes that build in the same folder one works and the others wait for it.

    Args:
        out: the folder, new or of a benchmark with these parameters.
        params: see `moving.default_params`; missing ones take their defaults.
        workers: threads; the number of cores by default.
    """
    params, out = check_params(params), Path(out).absolute()
    manifest = {"generator_version": GENERATOR_VERSION, "kind": "boxes", "parameters": params}
    with folders.building(out, manifest):
        for split in SPLITS:
            if (out / f"{split}.csv").exists():
                continue
            (out / split).mkdir(exist_ok=True)
            lines = [("video", "frame", "label", "x1", "y1", "x2", "y2", "width", "height")]
            for found in parallel(functools.partial(_write_clip, out, params, split),
                                  range(params[f"{split}_clips"]), workers,
                                  f"writing the embedded benchmark, {split}", "clip", processes=True):
                lines += found
            with atomic_write(out / f"{split}.csv") as part:
                part.write_text("".join(",".join(map(str, line)) + "\n" for line in lines))
        with atomic_write(out / "classes.txt") as part:
            part.write_text("".join(f"{name}\n" for name in class_names(params)))


def _write_clip(out, params, split, index):
    """Writes one file unless it is there, and returns its lines of the list."""
    frames, boxes = make_clip(params, split, index)
    path = f"{split}/{index:06d}.mp4"
    if not (out / path).exists():
        write_video(out / path, frames)
    height, width = frames.shape[1:3]
    return [(path, t, name, *box, width, height) for t, name, box in boxes]
