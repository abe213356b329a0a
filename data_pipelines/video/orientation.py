"""How a picture is turned and mirrored for display: what `ffmpeg -i FILE` does with a display matrix.

The rules are those of FFmpeg's autorotation (fftools/ffmpeg_filter.c), as its filters and on arrays.
"""

import math

import av
import numpy as np
from av.sidedata.sidedata import Type

_ON_ARRAYS = {  # of shape (H, W, 3)
    ("transpose", "dir=clock"): lambda x: np.rot90(x, -1),
    ("transpose", "dir=cclock"): np.rot90,
    ("transpose", "dir=cclock_flip"): lambda x: x.swapaxes(0, 1),
    ("transpose", "dir=clock_flip"): lambda x: x[::-1, ::-1].swapaxes(0, 1),
    ("hflip", ""): lambda x: x[:, ::-1],
    ("vflip", ""): lambda x: x[::-1],
}


def display_filters(frame: av.VideoFrame) -> list[tuple[str, str]]:
    """FFmpeg's filters, (name, arguments) each, that show a frame as its display matrix says; mostly none."""
    data = frame.side_data.get(Type.DISPLAYMATRIX)
    if data is None:
        return []
    a, b, _, c, d, *_ = np.frombuffer(data, np.int32).tolist()  # x' = a x + c y, y' = b x + d y
    widths = math.hypot(a, c), math.hypot(b, d)
    if 0 in widths:
        return []
    theta = round(math.degrees(math.atan2(b / widths[1], a / widths[0]))) % 360
    if theta == 90:
        return [("transpose", "dir=cclock_flip" if c > 0 else "dir=clock")]
    if theta == 270:
        return [("transpose", "dir=clock_flip" if c < 0 else "dir=cclock")]
    if theta == 180:
        return [("hflip", "")] * (a < 0) + [("vflip", "")] * (d < 0)
    if theta == 0:
        return [("vflip", "")] * (d < 0)
    return [("rotate", f"{theta}*PI/180")]


def on_array(rgb: np.ndarray, filters: list[tuple[str, str]]) -> np.ndarray:
    """Applies filters of `display_filters` to an array (H, W, 3), without a copy where possible."""
    for step in filters:
        rgb = _ON_ARRAYS[step](rgb) if step in _ON_ARRAYS else _filtered(rgb, step)
    return rgb


def _filtered(rgb, step):
    """An angle that is no quarter turn: FFmpeg's own filter, in the picture's size with black corners."""
    height, width = rgb.shape[:2]
    graph = av.filter.Graph()
    graph.link_nodes(graph.add_buffer(width=width, height=height, format="rgb24", time_base=1),
                     graph.add(*step), graph.add("format", "rgb24"), graph.add("buffersink")).configure()
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
    frame.pts = 0
    graph.push(frame)
    graph.push(None)
    return graph.pull().to_ndarray()
