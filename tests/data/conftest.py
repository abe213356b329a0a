"""Videos that several files of tests read, or copy into the layouts of data sets."""

import pytest

from tests.data.clip_files import class_folders, numbered_frames, write_video


@pytest.fixture(scope="session")
def clips(tmp_path_factory):
    """A video of each container that the data sets come in, by ending."""
    folder = tmp_path_factory.mktemp("clips")
    frames = numbered_frames(12)
    return {"mp4": write_video(folder / "a.mp4", frames),
            "avi": write_video(folder / "a.avi", frames, codec="mpeg4"),
            "webm": write_video(folder / "a.webm", frames, codec="libvpx"),
            "mkv": write_video(folder / "a.mkv", frames)}


@pytest.fixture(scope="session")
def class_clips(tmp_path_factory):
    """A folder of 23 clips in train (three classes) and 7 in val; nobody writes into it."""
    root = tmp_path_factory.mktemp("class_clips")
    class_folders(root / "train", {"a": 9, "b": 8, "c": 6})
    class_folders(root / "val", {"a": 3, "b": 2, "c": 2})
    return str(root)
