"""Videos that several files of tests copy into the layouts of data sets."""

import pytest

from tests.data.clip_files import numbered_frames, write_video


@pytest.fixture(scope="session")
def clips(tmp_path_factory):
    """A video of each container that the data sets come in, by ending."""
    folder = tmp_path_factory.mktemp("clips")
    frames = numbered_frames(12)
    return {"mp4": write_video(folder / "a.mp4", frames),
            "avi": write_video(folder / "a.avi", frames, codec="mpeg4"),
            "webm": write_video(folder / "a.webm", frames, codec="libvpx"),
            "mkv": write_video(folder / "a.mkv", frames)}
