"""Images and masks: every stored form of a mask, layouts, lists, what is refused, random scales, scenes."""

import json
import struct
import zlib

import cv2
import numpy as np
import pytest

import data_pipelines
from data_pipelines import DataError, PixelClasses, VideoError, check_masks
from data_pipelines.batches import transforms
from data_pipelines.batches.placing import Place
from data_pipelines.options import plain_options
from data_pipelines.synthetic import scenes
from data_pipelines.video import masks
from data_pipelines.video.decode import open_video
from tests.data.clip_files import data_config
from tests.made_scenes import sceneparse


def png(numbers, depth=8, palette=False) -> bytes:
    """A png of grey levels or of a palette with any number of bits, written by hand."""
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I",
                                                                              zlib.crc32(kind + content))

    height, width = numbers.shape
    bits = np.unpackbits(numbers.astype(np.uint8)[..., None], axis=-1)[..., 8 - depth:]
    rows = np.packbits(bits.reshape(height, -1), axis=1)
    data = b"".join(b"\0" + row.tobytes() for row in rows)
    colours = bytes(np.random.default_rng(0).integers(0, 256, 3 * 2**depth, np.uint8))
    head = struct.pack(">IIBBBBB", width, height, depth, 3 if palette else 0, 0, 0, 0)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + (chunk(b"PLTE", colours) if palette else b"")
            + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b""))


@pytest.mark.parametrize("depth, palette", [(8, False), (8, True), (4, True), (2, True), (1, True)])
def test_numbers_of_a_mask_whatever_its_form(tmp_path, rng, depth, palette):
    numbers = rng.integers(0, 2**depth, (7, 13))
    (tmp_path / "m.png").write_bytes(png(numbers, depth, palette))
    np.testing.assert_array_equal(masks.read_numbers(str(tmp_path / "m.png")), numbers)


def test_other_forms_and_what_is_no_mask(tmp_path, rng):
    numbers, path = rng.integers(0, 300, (5, 6)).astype(np.uint16), str(tmp_path / "m.png")
    cv2.imwrite(path, numbers)
    np.testing.assert_array_equal(masks.read_numbers(path), numbers)
    grey = rng.integers(0, 4, (5, 6)).astype(np.uint8)
    cv2.imwrite(path, np.repeat(grey[..., None], 3, axis=2))
    np.testing.assert_array_equal(masks.read_numbers(path), grey)
    cv2.imwrite(path, rng.integers(0, 200, (5, 6, 3)).astype(np.uint8))
    with pytest.raises(VideoError, match="coloured"):
        masks.read_numbers(path)
    (tmp_path / "m.png").write_bytes(b"nothing")
    with pytest.raises(VideoError, match="not a readable image"):
        masks.read_numbers(path)
    with pytest.raises(VideoError, match="No such file"):
        masks.read_numbers(str(tmp_path / "gone.png"))


def test_classes_of_a_mask(tmp_path):
    path = str(tmp_path / "m.png")
    cv2.imwrite(path, np.array([[0, 1, 2, 255]], np.uint8))
    assert masks.read_classes(path, 3).tolist() == [[0, 1, 2, 255]]
    assert masks.read_classes(path, 2, first=1).tolist() == [[255, 0, 1, 255]], "SceneParse: 0 is no class"
    with pytest.raises(VideoError, match="pixel 2 at row 0, column 2 is no class: expected 0 to 1, or 255"):
        masks.read_classes(path, 2)


def test_an_image_is_a_video_of_one_frame(tmp_path, rng):
    image = rng.integers(0, 256, (20, 30, 3)).astype(np.uint8)
    cv2.imwrite(str(tmp_path / "a.PNG"), image[..., ::-1])
    for source in (str(tmp_path / "a.PNG"), (tmp_path / "a.PNG").read_bytes()):
        with open_video(source) as reader:
            assert reader.num_frames == 1 and tuple(reader.stored_size) == (20, 30)
            np.testing.assert_array_equal(reader.get([0, 0]), [image, image])
    (tmp_path / "b.jpg").write_bytes(b"no image")
    with pytest.raises(VideoError, match="not a readable image"):
        open_video(str(tmp_path / "b.jpg"))
    with pytest.raises(VideoError, match="No such file"):
        open_video(str(tmp_path / "c.jpg"))


def image_config(**fields):
    usual = dict(source="masks", num_frames=1, sampling="segments", num_classes=3, crop=16, short_side=16,
                 test_crop_size=16, test_short_side=16)
    return data_config(**{**usual, **fields})


def folder_of(root, images=4, size=(12, 20), first=0):
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for kind in ("images", "masks"):
            (root / split / kind / "deep").mkdir(parents=True)
        for i in range(images):
            name = f"deep/{i}" if i % 2 else f"{i}"
            mask = rng.integers(first, first + 3, size).astype(np.uint8)
            cv2.imwrite(str(root / split / "masks" / f"{name}.png"), mask)
            cv2.imwrite(str(root / split / "images" / f"{name}.jpg"),
                        np.repeat(80 * mask[..., None], 3, axis=2))
    return root


def test_a_folder_of_images_and_masks(tmp_path):
    config = image_config(root=str(folder_of(tmp_path)))
    split = data_pipelines.open_split(config, "train", PixelClasses(3, 16, 16))
    assert len(split.overview(0, 6, 96)) == 1, "an image is shown once"
    assert [split.entry(i).name for i in range(len(split))] == ["0.jpg", "2.jpg", "deep/1.jpg", "deep/3.jpg"]
    assert split.class_names == ["class 0", "class 1", "class 2"]
    with split.batches() as batches:
        batch = next(batches)
    assert batch["classes"].shape == (batch["video"].shape[0], 16, 16) and batch["classes"].max() <= 2
    (tmp_path / "names.txt").write_text("sky\nsea\nsand\n")
    named = image_config(root=str(tmp_path), num_classes=0, classes_file="names.txt")
    assert data_pipelines.open_split(named, "val").class_names == ["sky", "sea", "sand"]


@pytest.mark.parametrize("form", ["tab", "blank", "odgt"])
def test_lists_of_pairs(tmp_path, form):
    folder_of(tmp_path)
    pairs = [("val/images/0.jpg", "val/masks/0.png"), ("val/images/deep/1.jpg", "val/masks/deep/1.png")]
    write = {"tab": "\t".join, "blank": " ".join,
             "odgt": lambda p: json.dumps({"fpath_img": p[0], "fpath_segm": p[1], "width": 20,
                                           "height": 12})}[form]
    (tmp_path / "val.txt").write_text("".join(f"{write(pair)}\n" for pair in pairs))
    split = data_pipelines.open_split(image_config(root=str(tmp_path), val_list="val.txt"), "val")
    assert [split.entry(i).name for i in range(2)] == [image for image, _ in pairs]


def test_mistakes_are_found_before_any_work(tmp_path):
    root = folder_of(tmp_path / "a")
    config = image_config(root=str(root))

    def refused(match, config=config):
        with pytest.raises(DataError, match=match):
            data_pipelines.open_split(config, "train")

    refused("is no class: expected 0 to 1.*data.num_classes.*data.mask_first", image_config(
        root=str(root), num_classes=2))
    refused("data.num_classes=1.*data.classes_file", image_config(root=str(root), num_classes=1))
    refused("nowhere.train.images is not a folder.*data.train_list",
            image_config(root=str(tmp_path / "nowhere")))
    refused("data.train_list='gone.txt' does not exist", image_config(root=str(root), train_list="gone.txt"))
    (root / "bad.txt").write_text("one two three\n")
    refused("bad.txt:1.*is no pair", image_config(root=str(root), train_list="bad.txt"))
    (root / "bad.odgt").write_text('{"fpath_img": "x"}\n')
    refused("bad.odgt:1.*fpath_segm", image_config(root=str(root), train_list="bad.odgt"))
    cv2.imwrite(str(root / "train/masks/2.png"), np.zeros((12, 21), np.uint8))
    refused("the mask has 21 x 12 pixels, its image .* 20 x 12")
    (root / "train/masks/0.png").unlink()
    refused("1 of the 4 images.*have no mask.*0.png")
    videos = image_config(source="list", train_list=str(tmp_path / "l.txt"), root=str(root))
    (tmp_path / "l.txt").write_text("train/images/2.jpg 0\n")
    with pytest.raises(DataError, match="has no masks.*data.source='masks'"):
        data_pipelines.open_split(videos, "train", PixelClasses(3, 16, 16))


def test_a_mask_of_another_shape_is_a_broken_example(tmp_path):
    cv2.imwrite(str(tmp_path / "m.png"), np.zeros((12, 30), np.uint8))
    entry = data_pipelines.Entry("i.jpg", (), mask=str(tmp_path / "m.png"))
    with pytest.raises(VideoError, match="30 x 12 pixels does not fit its image i.jpg"):
        PixelClasses(3, 8, 8).at(Place((12, 20), (0, 0, 12, 12), 8)).evaluate(entry)


def test_sceneparse_in_its_official_layout(tmp_path):
    root = sceneparse(tmp_path)
    config = image_config(source="sceneparse", root=str(root), num_classes=0)
    split = data_pipelines.open_split(config, "val", PixelClasses(150, 16, 16))
    assert len(split) == 4 and split.entry(0).name == "ADE_val_00000001.jpg"
    assert split.class_names[:3] == ["wall", "building", "sky"] and len(split.class_names) == 150
    with split.batches() as batches:
        classes = next(batches)["classes"]
    assert set(np.unique(classes)) <= {*range(150), 255} and (classes == 255).any()
    above = image_config(source="sceneparse", root=str(tmp_path), num_classes=0)
    assert len(data_pipelines.open_split(above, "train")) == 6, "the folder that holds it will do"
    listed = image_config(source="sceneparse", root=str(tmp_path), num_classes=0, val_list="validation.odgt")
    assert len(data_pipelines.open_split(listed, "val")) == 4
    assert check_masks.main(["--source=sceneparse", f"--root={root}", "--split=val"]) == 0
    cv2.imwrite(str(root / "annotations/validation/ADE_val_00000002.png"), np.full((30, 40), 200, np.uint8))
    out = str(tmp_path / "broken.txt")
    assert check_masks.main(["--source=sceneparse", f"--root={root}", "--split=val", f"--out={out}"]) == 1
    with open(out) as f:
        assert f.read().startswith("ADE_val_00000002.jpg\tpixel 200")


def test_random_scales():
    """Sizes are those asked for, a pixel keeps its mask, and what is beyond the image has no class."""
    frame = np.zeros((1, 48, 72, 3), np.uint8)
    frame[:, :24] = 255
    options = plain_options(data_config(train_crop="random_scale", short_side=48, short_sides=(24, 48),
                                        crop=40,
                                        flip=True))
    sides, outside = set(), 0
    for seed in range(40):
        clip, place = transforms.cut_for_training(options, frame, np.random.default_rng(seed))
        sides.add(place.box[2])
        mask = place.mask((frame[0, :, :, 0] > 0).astype(np.uint8), 255)
        assert clip.shape == (1, 40, 40, 3)
        known = mask != 255
        outside += (~known).sum()
        assert ((clip[0, :, :, 0] > 127) == mask)[known].mean() > 0.94
    assert sides == {40, 80} and outside > 0
    with pytest.raises(DataError, match="short_sides=.*expected the short sides"):
        data_pipelines.check_config(data_config(train_crop="random_scale", short_side=48))
    with pytest.raises(DataError, match="at most data.short_side=48"):
        data_pipelines.check_config(data_config(train_crop="random_scale", short_side=48, short_sides=(60,)))


def test_scenes_are_the_same_every_time(tmp_path):
    params = scenes.check_params(dict(train_clips=6, val_clips=3))
    one, two = scenes.make_scene(params, "val", 1), scenes.make_scene(params, "val", 1)
    assert one[0] == two[0]
    for a, b in zip(one[1:], two[1:]):
        np.testing.assert_array_equal(a, b)
    assert one[1].shape[:2] == one[2].shape and set(np.unique(one[2])) <= {*range(10), 255}
    config = image_config(source="synthetic_scenes", root=str(tmp_path), num_classes=0,
                          synthetic=dict(train_clips=6, val_clips=3))
    split = data_pipelines.open_split(config, "val", PixelClasses(10, 16, 16))
    assert split.class_names == list(scenes.CLASSES) and len(split) == 3
    made = data_pipelines.made_clips(config, "val")
    assert set(made) == {split.entry(i).name for i in range(3)}
    seen = np.zeros(10, int)
    for i in range(60):
        seen += np.bincount(scenes.make_scene(params, "train", i)[2].ravel(), minlength=256)[:10]
    assert (seen > 0).all(), "every class occurs"
    with pytest.raises(DataError, match="val_clip: did you mean val_clips"):
        scenes.check_params(dict(val_clip=1))
    with pytest.raises(DataError, match="other parameters"):
        scenes.build(next(p for p in tmp_path.iterdir() if p.is_dir()), dict(train_clips=7))
