"""Sources of boxes: a csv beside any videos, J-HMDB's files, the embedded benchmark; what is refused."""

import cv2
import numpy as np
import pytest
from scipy.io import savemat

from data_pipelines import BoxTargets, DataError, open_split
from data_pipelines.batches import transforms
from data_pipelines.options import check_options, plain_options
from data_pipelines.synthetic import boxes as synthetic_boxes
from data_pipelines.synthetic import moving
from tests.data.clip_files import data_config, numbered_frames, read_numbers, write_video

AROUND = dict(sampling="around", train_crop="whole", test_crop="whole")
HEADER = "video,frame,label,x1,y1,x2,y2\n"


def folder_of(tmp_path, text=None, name="train.csv"):
    """Two videos of 64 x 48 pixels and a csv of boxes."""
    for i in range(2):
        write_video(tmp_path / f"v{i}.mp4", numbered_frames(12 + i, seed=i))
    (tmp_path / name).write_text(HEADER + (text or (
        "v0.mp4,3,jump,8,12,32,36\nv0.mp4,3,run,0,0,16,48\nv1.mp4,9,run,-4,6,64,30\nv1.mp4,2,,,,,\n")))
    return data_config(source="boxes", root=str(tmp_path), train_list=name, val_list=name, **AROUND)


def test_a_csv_beside_videos(tmp_path):
    split = open_split(folder_of(tmp_path), "val", BoxTargets(2, 4))
    assert split.class_names == ["jump", "run"] and len(split) == 3
    entry = split.entry(0)
    assert (entry.name, entry.key_frame) == ("v0.mp4#3", 3)
    assert entry.boxes[0] == (0, 8 / 64, 12 / 48, 32 / 64, 36 / 48) and entry.boxes[1].label == 1
    assert split.entry(1).boxes[0] == (1, 0.0, 6 / 48, 1.0, 30 / 48), "cut at the frame's edge"
    assert split.entry(2).boxes == ()
    with split.batches() as batches:
        batch = next(batches)
    assert batch["box_count"].tolist()[:3] == [2, 1, 0] and batch["boxes"].shape == (8, 4, 4)
    np.testing.assert_allclose(batch["boxes"][0, 0], [0.125, 0.25, 0.5, 0.75], rtol=1e-6)
    clip = cv2.resize(batch["video"][0, 0, 2], (64, 48), interpolation=cv2.INTER_NEAREST)
    assert read_numbers(clip[None]) == [3], "the key frame is in the middle"
    np.testing.assert_array_equal(split.views(1), batch["video"][1])


def test_frames_of_a_video_are_cached_once_and_keep_their_boxes(tmp_path):
    config = folder_of(tmp_path, "v0.mp4,3,jump,8,12,32,36\nv0.mp4,9,run,0,0,16,48\n")
    plain = [b for b in open_split(config, "val", BoxTargets(2, 4)).batches()]
    config.cache = "memory"
    split = open_split(config, "val", BoxTargets(2, 4))
    for _ in range(2):
        for ours, theirs in zip(split.batches(), plain, strict=True):
            np.testing.assert_array_equal(ours["video"], theirs["video"])
            np.testing.assert_array_equal(ours["boxes"], theirs["boxes"])


def test_folders_of_images_and_given_sizes(tmp_path):
    for i, frame in enumerate(numbered_frames(6), 1):
        (tmp_path / "f").mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / f"f/img_{i:05}.png"), frame[..., ::-1])
    (tmp_path / "train.csv").write_text(HEADER + "f,3,1,0,0,32,24\nf,6,0,0,0,32,24\n")
    config = data_config(source="boxes", root=str(tmp_path), train_list="train.csv", val_list="train.csv",
                         list_format="frames", **AROUND)
    split = open_split(config, "train", BoxTargets(2, 4))
    assert [split.entry(i).name for i in (0, 1)] == ["f#3", "f#6"] and split.entry(0).key_frame == 2
    assert split.class_names == ["0", "1"] and split.entry(0).boxes[0] == (1, 0, 0, 0.5, 0.5)
    (tmp_path / "sized.csv").write_text(
        "width,height," + HEADER + "100,50,nothing.mp4,3,a,0,0,50,25\n100,50,v.mp4,0,b,1,1,2,2\n")
    config.train_list = config.val_list = "sized.csv"
    config.list_format = "video"
    assert open_split(config, "train").entry(0).boxes[0] == (0, 0, 0, 0.5, 0.5), "no video was opened"


@pytest.mark.parametrize("text, message", [
    ("v0.mp4,3,jump,8,12,32\n", "train.csv:2: 6 columns, the header has 7"),
    ("v0.mp4,x,jump,8,12,32,36\n", "train.csv:2: cannot read 'v0.mp4,x,jump"),
    ("v0.mp4,3,jump,32,12,8,36\n", "train.csv:2: .* is no box: expected .* x1 < x2"),
    ("v0.mp4,3,,8,12,32,36\n", "train.csv:2: .* is no box"),
    ("v0.mp4,3,jump,nan,12,32,36\n", "train.csv:2: .* is no box"),
    ("v0.mp4,3,run,70,12,90,36\nv0.mp4,3,jump,0,0,9,9\n", "train.csv:2: the box 70, 12, 90, 36 lies beyond "
                                                      "its frame of 64 x 48"),
    ("v0.mp4,12,run,0,0,9,9\nv0.mp4,3,jump,0,0,9,9\n",
     "train.csv:2: v0.mp4 has no frame 12: expected 0 to 11"),
    ("v0.mp4,3,jump,0,0,9,9\n", "the boxes have 1 classes"),
    ("v9.mp4,3,jump,0,0,9,9\nv9.mp4,3,run,0,0,9,9\n", "none of its videos can be read|1 of the 1 videos"),
    ("../v0.mp4,3,jump,0,0,9,9\nv0.mp4,3,run,0,0,9,9\n", "is outside of data.root")])
def test_what_is_wrong_with_a_csv_is_told_with_its_line(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        open_split(folder_of(tmp_path, text), "train")


def test_what_else_is_wrong(tmp_path):
    config = folder_of(tmp_path)
    with pytest.raises(DataError, match="v0.mp4#3 has 2 boxes, more than localisation.max_boxes=1"):
        open_split(config, "train", BoxTargets(2, 1))
    with pytest.raises(DataError, match="the network has 3 classes"):
        open_split(config, "train", BoxTargets(3, 4))
    (tmp_path / "train.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="must name the columns video,frame,label,.*; it lacks video"):
        open_split(config, "train")
    config.train_list = "none.csv"
    with pytest.raises(DataError, match="none.csv"):
        open_split(config, "train")


def make_jhmdb(root, classes=("catch", "kick_ball"), videos=2, frames=8):
    """A miniature of the released files: images, puppet masks, lists of the splits; boxes by video."""
    truth, rng = {}, np.random.default_rng(0)
    (root / "splits").mkdir(parents=True)
    for name in classes:
        lines = []
        for v in range(videos):
            video = f"film_{name}_{v}"
            images, masks = root / "Rename_Images" / name / video, root / "puppet_mask" / name / video
            images.mkdir(parents=True)
            masks.mkdir(parents=True)
            mask = np.zeros((48, 64, frames), np.uint8)
            for t in range(frames):
                x, y = int(rng.integers(0, 30)), int(rng.integers(0, 20))
                mask[y:y + 20, x:x + 10, t] = 1 + t % 3  # parts of the body
                truth[f"{name}/{video}", t] = x, y, x + 10, y + 20
                picture = np.full((48, 64, 3), 40, np.uint8)
                picture[mask[..., t] > 0] = 200
                cv2.imwrite(str(images / f"{t + 1:05}.png"), picture)
            mask[..., 3] = 0  # nobody is there
            savemat(str(masks / "puppet_mask.mat"), {"part_mask": mask}, do_compression=True)
            lines.append(f"{video}.avi {1 + v % 2}\n")
        (root / "splits" / f"{name}_test_split1.txt").write_text("".join(lines))
    return truth


def jhmdb_config(root, **more):
    lists = "splits/*_test_split1.txt"
    return data_config(**{**dict(source="jhmdb", root=str(root), train_list=lists, val_list=lists), **AROUND,
                          **more})


def test_jhmdb_as_it_is_released(tmp_path):
    truth = make_jhmdb(tmp_path / "j")
    config = jhmdb_config(tmp_path / "j")
    train, val = (open_split(config, name, BoxTargets(2, 1)) for name in ("train", "val"))
    assert train.class_names == ["catch", "kick_ball"] and len(train) == len(val) == 2 * 7
    for split, v in ((train, 0), (val, 1)):
        for i in range(len(split)):
            entry = split.entry(i)
            name, _, number = entry.name.removeprefix("Rename_Images/").partition("#")
            assert name.endswith(f"_{v}") and entry.key_frame == int(number) - 1 != 3
            label, *box = entry.boxes[0]
            assert split.class_names[label] == name.split("/")[0]
            np.testing.assert_allclose(np.array(box) * [64, 48, 64, 48], truth[name, entry.key_frame])
    with val.batches() as batches:
        batch = next(batches)
    x1, y1, x2, y2 = (batch["boxes"][0, 0] * 32).round().astype(int)
    assert batch["video"][0, 0, 2, y1 + 1:y2 - 1, x1 + 1:x2 - 1].min() > 150, "the person is in the box"


def test_what_is_wrong_with_jhmdb(tmp_path):
    root = tmp_path / "j"
    with pytest.raises(DataError, match="Rename_Images and .*puppet_mask missing"):
        open_split(jhmdb_config(root), "train")
    make_jhmdb(root)
    mask = root / "puppet_mask" / "catch" / "film_catch_0" / "puppet_mask.mat"
    for damage, message in (
            (lambda: mask.write_bytes(b"no mat file at all" * 20), "puppet_mask.mat: .*repair it"),
            (lambda: savemat(str(mask), {"other": np.zeros(3)}), "no variable part_mask"),
            (lambda: savemat(str(mask), {"part_mask": np.zeros((4, 4, 4))}), "part_mask is float64"),
            (lambda: mask.unlink(), "puppet_mask.mat: ")):
        damage()
        with pytest.raises(DataError, match=message):
            open_split(jhmdb_config(root), "train")
    with pytest.raises(DataError, match="finds 0 files, there are 2 classes"):
        open_split(jhmdb_config(root, train_list="splits/*_test_split9.txt"), "train")
    (root / "splits" / "catch_test_split1.txt").write_text("film_catch_0.avi three\n")
    with pytest.raises(DataError, match="catch_test_split1.txt:1: cannot read"):
        open_split(jhmdb_config(root), "val")
    with pytest.raises(DataError, match="2 folders of classes .* data.num_classes=21"):
        open_split(jhmdb_config(root, num_classes=21), "train")


def test_jittered_crops_take_their_boxes_along(tmp_path):
    config = folder_of(tmp_path, "v0.mp4,3,jump,8,12,32,36\nv0.mp4,3,run,0,0,2,2\n")
    config.train_crop, config.crop, config.test_crop_size, config.batch_size = "jitter", 32, 32, 32
    config.flip = True
    with open_split(config, "train", BoxTargets(2, 4)).batches() as batches:
        batch = next(batches)
    widths = batch["boxes"][:, 0, 2] - batch["boxes"][:, 0, 0]
    assert widths.std() > 0.02 and (0.2 < widths).all() and (widths < 0.7).all()
    assert set(batch["box_count"].tolist()) == {1, 2}, "the corner is beyond some of the clips"
    boxes = [transforms.jitter_box(100, 200, np.random.default_rng(i)) for i in range(200)]
    left, top, width, height = np.array(boxes).T
    assert left.min() == -40 and left.max() == 40 and top.min() == -20 and top.max() == 20
    assert width.min() >= 120 and width.max() <= 280 and height.max() <= 140
    options = plain_options(data_config(train_crop="jitter", crop=40, short_side=30))
    check_options(options)


def test_the_embedded_benchmark_has_exact_boxes(tmp_path):
    params = moving.check_params(dict(difficulty=0.0, distractors=0))
    frames, found = moving.make_clip(params, "val", 3)
    again, same = moving.make_clip({**params, "val_clips": 9}, "val", 3)
    np.testing.assert_array_equal(frames, again)
    assert found == same and found
    for t, name, (x1, y1, x2, y2) in found:
        assert name in moving.class_names(params)
        assert 0 <= x1 < x2 <= frames.shape[2] and 0 <= y1 < y2 <= frames.shape[1] and 0 <= t < len(frames)
    config = data_config(source="synthetic_boxes", root=str(tmp_path), flip=True, **AROUND,
                         synthetic=dict(train_clips=3, val_clips=2))
    split = open_split(config, "train", BoxTargets(6, 8))
    assert len(split.class_names) == 6 and 3 <= len(split) <= 6
    folder = synthetic_boxes.ensure_built(plain_options(config))
    made = (folder / "train.csv").read_bytes()
    assert open_split(config, "val").entry(0).key_frame >= 0
    assert synthetic_boxes.ensure_built(plain_options(config)) == folder
    assert (folder / "train.csv").read_bytes() == made
    with pytest.raises(DataError, match="unknown data.synthetic.objets: did you mean objects"):
        moving.check_params(dict(objets=3))
    with pytest.raises(DataError, match="data.synthetic.objects=9 must be within 1 and 4"):
        moving.check_params(dict(objects=9))
