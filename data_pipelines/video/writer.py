"""Writing a video frame by frame, of any length."""

from collections.abc import Iterable
from fractions import Fraction

import av
import numpy as np

from data_pipelines.tools import atomic_write


def write_frames(path, frames: Iterable[np.ndarray], fps: float = 25.0, crf: int = 20) -> None:
    """Writes an H.264 mp4 file that any player shows; it appears under its name only when it is complete.

    Args:
        path: the file; its folder must exist.
        frames: uint8 (H, W, 3) RGB, one at a time; at least one, all of one size with even sides.
        fps: frames per second.
        crf: x264's quality, 0 (lossless) to 51.
    """
    with atomic_write(path) as part, av.open(str(part), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        stream.options = {"preset": "veryfast", "crf": str(crf)}
        for t, image in enumerate(frames):
            if not t:
                stream.height, stream.width = image.shape[:2]
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
