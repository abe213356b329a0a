"""Extracting frames for the data sets that are read as images: ActivityNet and FCVID."""

import os
from pathlib import Path

from data_pipelines.errors import DataError
from data_pipelines.extract_frames import extract
from data_pipelines.make_list import count_frames


def add_arguments(parser) -> None:
    """Flags of what is extracted."""
    parser.add_argument("--fps", type=float, default=4,
                        help="frames per second, 0: every frame; default: %(default)s, as released")
    parser.add_argument("--height", type=int, default=360,
                        help="of the frames, 0: as it is; default: %(default)s")
    parser.add_argument("--format", choices=("png", "jpg"), default="png",
                        help="jpg is about ten times smaller and costs a little accuracy; default: "
                             "%(default)s, as released")


def template(args) -> str:
    """Name of a frame."""
    return f"img_{{:05}}.{args.format}"


def fields(args) -> dict[str, str]:
    """Fields of the config that other flags than the released ones need."""
    return {} if args.format == "png" else {"frame_template": template(args)}


def settings(args) -> dict:
    """What frames of one data set must share."""
    return {"fps": args.fps, "height": args.height, "format": args.format}


class Extraction:
    """Frames of videos, made where they are not yet.

    Args:
        root: folder of the folders of frames.
        videos: path of the video of each folder, by the folder's path below the root.
        args: with the flags above.

    Raises:
        DataError: flags out of their bounds, or frames of another format are there.
    """

    def __init__(self, root: str, videos: dict[str, str], args):
        if args.fps < 0 or args.height < 0:
            raise DataError(f"--fps={args.fps} --height={args.height}: expected 0 or more.")
        self._root, self._videos, self._args = Path(root), videos, args
        there = [folder for folder in videos if (self._root / folder).is_dir()]
        self.done = len(there)
        other = next((folder for folder in there[:100]
                      if not (self._root / folder / template(args).format(1)).exists()), None)
        if other is not None:
            raise DataError(f"{self._root / other} holds no {template(args).format(1)}: its frames were made "
                            f"with another --format, or it is not from here. Choose another --out, or move "
                            f"it away.")

    def __call__(self, folder: str) -> int:
        """Number of frames of a video, after extracting them if its folder is not there.

        Raises:
            VideoError: it cannot be decoded.
        """
        place = self._root / folder
        if not place.is_dir():
            place.parent.mkdir(parents=True, exist_ok=True)
            extract(self._videos[folder], place, fps=self._args.fps, height=self._args.height,
                    template=template(self._args))
        return count_frames(str(place), template(self._args), 1)


def without_ending(path: str) -> str:
    """Folder of the frames of a video."""
    return os.path.splitext(path)[0]

