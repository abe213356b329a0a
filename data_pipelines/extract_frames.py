"""Extracts the frames of videos as image files: the ActivityNet and FCVID layout of the recipes.

    python -m data_pipelines.extract_frames --root=activitynet/videos --out=data/actnet/imgs

writes <out>/<video without ending>/img_00001.png and so on, 4 per second, 360 pixels high, the
width by the aspect. FFmpeg's own filters (`fps`, `scale=-1:360`) do it inside PyAV; the
display matrix of the file is applied. The released script of the reference leaves the choice of frames to
the `-r` switch of the ffmpeg command, which depends on its version; counts may differ by one or two
per video, so count them afterwards: `python -m data_pipelines.make_list --convert=...`.

Finished videos are skipped, so an interrupted command continues. Videos that cannot be decoded are
named, and listed with their reasons in <out>/broken.txt; they get no folder. Exit code: 0 all
videos are extracted, 1 some are broken.
"""

import argparse
import os
import shutil
from pathlib import Path

import av
import cv2

from data_pipelines.clip_lists import files_below, reason_of, write_broken
from data_pipelines.engine import DIED, Stage, add_flags, make_engine, one_by_one
from data_pipelines.errors import DataError, VideoError
from data_pipelines.names import printable
from data_pipelines.options import check_template
from data_pipelines.tools import run_tool
from data_pipelines.video import remote
from data_pipelines.video.container import MAX_FRAMES, MAX_SECONDS, open_container, text_of
from data_pipelines.video.decode import open_video
from data_pipelines.video.orientation import display_filters


class Extract:
    """The stage: (path of a video, folder for its frames) -> why it is broken, '' if it is not.

    Args:
        options: of `extract`.
    """

    def __init__(self, **options):
        self._options = options

    def __call__(self, videos: list[tuple[str, str]]) -> list[str]:
        return [reason_of(lambda: extract(path, Path(folder), **self._options))  # noqa: B023
                for path, folder in videos]


def extract(video: str, folder: Path, *, fps: float, height: int, template: str) -> None:
    """Writes the frames of one video; the folder appears when all of them are written.

    Args:
        video: the file.
        folder: folder for its frames.
        fps: frames per second; 0 keeps every frame.
        height: of the images in pixels; 0 keeps the size.
        template: file name of a frame, its ending is the format; the first number is 1.

    Raises:
        VideoError: the video cannot be decoded to its end.
    """
    source = remote.content_of(video)
    with open_video(source, video):  # finds what decoding alone does not: truncation
        pass
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        count, most = 0, round(fps * MAX_SECONDS) or MAX_FRAMES
        for image in _filtered(source, video, fps, height):
            count += 1
            if count > most:  # frames whose time stamps lie far apart are repeated in between
                raise VideoError(video, f"gives more than {most} images: cut it into parts")
            _write(part / template.format(count), image)
        if not count:  # shorter than half the interval between two images
            _write(part / template.format(1), next(_filtered(source, video, 0, height)))
        os.replace(part, folder)
    except VideoError:
        raise
    except (av.error.FFmpegError, ValueError, StopIteration) as error:
        raise VideoError(video, f"decoding failed ({text_of(error)})") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _write(path, image):
    done, data = cv2.imencode(path.suffix, image.to_ndarray(format="bgr24"))
    if not done:
        raise OSError(f"cannot write {path}")
    path.write_bytes(data)  # OpenCV cannot write names that are no UTF-8


def _filtered(source, name, fps, height):
    """Frames of a video after FFmpeg's filters."""
    container, stream = open_container(source, name)
    with container:
        graph = None
        for frame in container.decode(stream):
            if graph is None:
                graph = _filters(stream, display_filters(frame), fps, height)
            graph.push(frame)
            yield from _pull(graph)
        if graph is not None:
            graph.push(None)
            yield from _pull(graph)


def _filters(stream, upright, fps, height):
    graph = av.filter.Graph()
    chain = [graph.add_buffer(template=stream)]
    chain += [graph.add(name, arguments or None) for name, arguments in upright]
    if fps:
        chain.append(graph.add("fps", f"fps={fps}"))
    if height:
        chain.append(graph.add("scale", f"-1:{height}"))
    graph.link_nodes(*chain, graph.add("buffersink")).configure()
    return graph


def _pull(graph):
    while True:
        try:
            yield graph.pull()
        except (av.error.BlockingIOError, av.error.EOFError):
            return


def main(argv=None) -> int:
    """Command line; see the top of this file."""
    parser = argparse.ArgumentParser(
        prog="python -m data_pipelines.extract_frames", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="folder of the videos, subfolders included")
    parser.add_argument("--out", required=True, help="folder for the folders of frames")
    parser.add_argument("--fps", type=float, default=4, help="0: every frame; default: %(default)s")
    parser.add_argument("--height", type=int, default=360, help="0: as it is; default: %(default)s")
    parser.add_argument("--template", default="img_{:05}.png", help="default: %(default)s")
    add_flags(parser)
    args = parser.parse_args(argv)
    check_template("--template", args.template)

    engine = make_engine(args.engine, args.workers, args.address)
    videos = files_below(args.root)
    folders = {video: Path(args.out) / os.path.splitext(video)[0] for video in videos}
    if len(set(folders.values())) < len(folders):
        twice = [video for video in videos if list(folders.values()).count(folders[video]) > 1]
        raise DataError(f"videos that differ only in their endings would share a folder: "
                        f"{', '.join(twice[:5])}. Rename them.")
    Path(args.out).mkdir(parents=True, exist_ok=True)
    rest = [video for video in videos if not folders[video].exists()]

    work = Extract(fps=args.fps, height=args.height, template=args.template)
    found = one_by_one(engine, Stage(work, lambda video: DIED),
                       [(os.path.join(args.root, video), os.path.abspath(folders[video])) for video in rest],
                       "extracting", "video", done=len(videos) - len(rest))
    broken = {printable(rest[i]): reason for i, reason in sorted(found) if reason}
    write_broken(Path(args.out) / "broken.txt", broken)
    for video in list(broken)[:5]:
        print(f"broken: {video}: {broken[video]}")
    print(f"frames of {len(videos) - len(broken)} of {len(videos)} videos are in {args.out}")
    return 1 if broken else 0


if __name__ == "__main__":
    run_tool(main)
