"""The data configuration as an object, and its checks that need no data: values, and values that clash."""

import dataclasses
import difflib
import re
import string
from collections.abc import Collection, Mapping

from data_pipelines.errors import DataError
from data_pipelines.fields import Field, shown
from data_pipelines.tools import memory_bytes

_SIDE, _BATCH = Field.integer(1, 2**14), Field.integer(1, 2**20)
# Type and bounds of every field of `config.data`, here and nowhere else; what clashes is in `check_options`.
FIELDS = {
    "source": Field.text(), "root": Field.text(), "train_root": Field.text(), "val_root": Field.text(),
    "train_list": Field.text(), "val_list": Field.text(),
    "tfds_name": Field.text(), "list_format": Field.choice("video", "frames"),
    "frame_template": Field.template(), "start_index": Field.integer(0, 2**31 - 1),
    "classes_file": Field.text(), "num_classes": Field.integer(0, 10**6), "multi_label": Field.flag(),
    "val_share": Field.number(0, 1), "split_seed": Field.integer(0, 2**63 - 1), "synthetic": Field.group(),
    "sampling": Field.choice("segments", "dense", "around"),
    "num_frames": Field.integer(1, 2**14), "frame_interval": Field.integer(1, 2**20),
    "test_clips": Field.integer(1, 10**4), "twice_sample": Field.flag(),
    "short_side": _SIDE,
    "train_crop": Field.choice("multi_scale", "random_resized", "random_scale", "center", "whole", "jitter"),
    "short_sides": Field.many(_SIDE), "mask_first": Field.integer(0, 2**16 - 1),
    "crop": _SIDE, "snap_side": Field.integer(0, 2**14), "flip": Field.flag(), "test_short_side": _SIDE,
    "test_crop": Field.choice("center", "three", "whole", "pad"), "test_crop_size": _SIDE,
    "quality": Field.integer(0, 2**14), "fixed_views": Field.integer(0, 10**5),
    "randaugment": Field.integer(0, 100), "randaugment_magnitude": Field.number(0, 10),
    "batch_size": _BATCH, "eval_batch_size": _BATCH, "views_per_pass": Field.integer(0, 10**5),
    "seed": Field.integer(0, 2**32 - 1),
    "num_threads": Field.integer(0, 1024), "num_workers": Field.integer(0, 1024),
    "prefetch": Field.integer(1, 2**16), "max_broken_share": Field.number(0, 1),
    "cache": Field.choice("none", "memory"), "cache_gib": Field.number(0, 2**20),
    "calib_share": Field.number(0, below=1),
}


_RESIZED = ("whole", "pad", "jitter", "random_scale")  # crops that are resized to theirs, larger or smaller


@dataclasses.dataclass
class Options:
    """The fields of `config.data`, plain and picklable; `configs/recipes/base.py` has their usual values.

    A field with a default is younger than configurations that were saved with a network: the default is what
    they meant. Further fields NAME_list and NAME_root, of a split NAME, become attributes, too.
    """

    # Where videos come from.
    source: str
    root: str
    train_list: str
    val_list: str
    tfds_name: str
    list_format: str
    frame_template: str
    start_index: int
    classes_file: str
    num_classes: int
    multi_label: bool
    val_share: float
    split_seed: int
    synthetic: Mapping
    # Which frames.
    sampling: str
    num_frames: int
    frame_interval: int
    test_clips: int
    twice_sample: bool
    # Which part of them.
    short_side: int
    train_crop: str
    crop: int
    flip: bool
    test_short_side: int
    test_crop: str
    test_crop_size: int
    # Batches.
    batch_size: int
    eval_batch_size: int
    seed: int
    num_threads: int
    num_workers: int
    prefetch: int
    max_broken_share: float
    cache: str
    cache_gib: float

    calib_share: float = 0.0
    snap_side: int = 0
    views_per_pass: int = 0
    train_root: str = ""
    val_root: str = ""
    quality: int = 0
    short_sides: tuple[int, ...] = ()
    mask_first: int = 0
    randaugment: int = 0
    randaugment_magnitude: float = 9.0
    fixed_views: int = 0


def plain_options(config) -> Options:
    """Returns the fields of `config.data` (a ConfigDict or a dict) as a plain, picklable object.

    Raises:
        DataError: a field is missing.
    """
    values = {key: config[key] for key in config.keys()}
    fields = dataclasses.fields(Options)
    missing = [f.name for f in fields if f.name not in values and f.default is dataclasses.MISSING]
    if missing:
        raise DataError(f"config.data lacks the fields {', '.join(missing)}: start from the defaults of "
                        f"configs/recipes/base.py.")
    options = Options(**{f.name: values.pop(f.name) for f in fields if f.name in values})
    vars(options).update(values)
    return options


def check_choice(field: str, value, choices: Collection[str], prefix: str = "data.") -> None:
    """Raises `DataError` with close matches if `value` is not one of `choices`."""
    if value not in choices:
        close = difflib.get_close_matches(str(value), choices, cutoff=0.4)
        hint = f"did you mean {' or '.join(map(repr, close))}? " if close else ""
        raise DataError(f"unknown {prefix}{field}={value!r}: {hint}Known: {', '.join(choices)}.")


def check_template(field: str, template) -> None:
    """Raises `DataError` for a file name of frames that does not number them, or in absurd width."""
    try:
        specs = [spec or "" for _, _, spec, _ in string.Formatter().parse(template)]
        widths = [int(digits) for spec in specs for digits in re.findall("[0-9]+", spec)]
        fine = (len(template) <= 1000 and max(widths, default=0) <= 100 and "{" not in "".join(specs) and
                template.format(1) != template.format(2))
    except (ValueError, TypeError, LookupError, AttributeError):
        fine = False
    if not fine:
        shown = repr(template) if len(str(template)) <= 100 else f"{str(template)[:100]!r}..."
        raise DataError(f"{field}={shown} must be the name of a frame with its number in at most 100 digits, "
                        f"like img_{{:05}}.png.")


def check_fields(values: Mapping) -> None:
    """Raises `DataError` for the first of some fields of `config.data` that is out of its bounds."""
    for name, value in values.items():
        field = FIELDS.get(name, Field.text() if name.endswith(("_list", "_root")) else None)
        problem = field.problem(value) if field else ""
        if problem and isinstance(value, str) and field.choices:
            check_choice(name, value, field.choices)
        if problem:
            raise DataError(f"data.{name}={shown(value)} must be {problem}.")


def check_options(options: Options, process_count: int = 1) -> None:
    """Raises `DataError` for the first value that cannot work.

    Args:
        options: the data configuration.
        process_count: number of processes that share the global batches.
    """
    check_fields(vars(options))
    check_template("data.frame_template", options.frame_template)
    for size, side, kind in (("crop", "short_side", "train_crop"),
                             ("test_crop_size", "test_short_side", "test_crop")):
        crop, short = getattr(options, size), getattr(options, side)
        if crop > short and getattr(options, kind) not in _RESIZED:
            raise DataError(f"data.{size}={crop} is larger than data.{side}={short}, the short "
                            f"side of the frames it is cut from. Raise data.{side} or lower "
                            f"data.{size}.")
    sides = options.short_sides
    if (options.train_crop == "random_scale") != bool(sides) or max(sides, default=0) > options.short_side:
        raise DataError(f"data.short_sides={tuple(sides)}: with data.train_crop='random_scale' expected the "
                        f"short sides in pixels that images are drawn in, at most data.short_side="
                        f"{options.short_side}, such as (300, 375, 450); with any other data.train_crop ().")
    for size in ("crop", "test_crop_size"):
        if options.quality and options.quality >= getattr(options, size):
            raise DataError(f"data.quality={options.quality} is the side in pixels that clips of data.{size}="
                            f"{getattr(options, size)} are shrunk to before they are enlarged again: "
                            f"expected less than that, or 0 for clips as they are.")
    if options.test_crop == "three" and options.test_crop_size != options.test_short_side:
        raise DataError(
            f"data.test_crop='three' takes three crops along the long side, so the crop must fill "
            f"the short side: data.test_crop_size={options.test_crop_size} must equal "
            f"data.test_short_side={options.test_short_side} (as the reference asserts).")
    if options.sampling == "around" and (options.test_clips != 1 or options.twice_sample):
        raise DataError(f"data.test_clips={options.test_clips}, data.twice_sample={options.twice_sample}: "
                        f"with data.sampling='around' a clip lies around its key frame, and there is one: "
                        f"expected 1 and False.")
    if options.sampling == "segments":
        for field in ("frame_interval", "test_clips"):
            if getattr(options, field) != 1:
                raise DataError(
                    f"data.{field}={getattr(options, field)} has no meaning with data.sampling="
                    f"'segments' (one frame per segment, one clip; data.twice_sample doubles it): "
                    f"set it to 1, or use data.sampling='dense'.")
    for field in ("batch_size", "eval_batch_size"):
        size = getattr(options, field)
        if size % process_count:
            raise DataError(
                f"data.{field}={size} is the global batch and must be divisible by the "
                f"{process_count} processes, e.g. {size - size % process_count or process_count}.")


def check_memory(options: Options, process_count: int = 1) -> None:
    """Raises `DataError` for batches that this machine cannot hold, of training and of evaluation.

    Two are the least: one is used while the next one is read.
    """
    views = options.test_clips * (1 + options.twice_sample) * (3 if options.test_crop == "three" else 1)
    memory = memory_bytes()
    for field, side, number in (("batch_size", "crop", 1), ("eval_batch_size", "test_crop_size", views)):
        batch, pixels = getattr(options, field), getattr(options, side)
        needed = 2 * batch * number * options.num_frames * pixels**2 * 3 // process_count
        if needed > memory:
            raise DataError(
                f"data.{field}={batch}: two batches of {number} x {options.num_frames} frames "
                f"(data.num_frames) of {pixels} x {pixels} pixels (data.{side}) take "
                f"{needed / 2**30:,.0f} GiB, and this machine has {memory / 2**30:,.0f}: lower one of them.")


def check_synthetic(options: Options) -> None:
    """Raises `DataError` for fields that mean other data than the embedded benchmark and would be ignored."""
    for field in ("train_root", "val_root", "train_list", "val_list", "classes_file", "tfds_name",
                  "num_classes"):
        if value := getattr(options, field):
            raise DataError(
                f"data.{field}={shown(value)} contradicts data.source='{options.source}': the embedded "
                f"benchmark, which :tiny and :demo train on, has lists and classes of its own. Leave "
                f"data.{field} out, or leave out :tiny and :demo to train on your data.")


def check_config(config, process_count: int = 1) -> None:
    """What can be wrong with `config.data` before any data is looked at.

    Raises:
        DataError: the first field that cannot work.
    """
    options = plain_options(config)
    check_options(options, process_count)
    check_memory(options, process_count)
    if options.source == "synthetic_scenes":
        from data_pipelines.synthetic import scenes

        check_synthetic(options)
        scenes.check_params(options.synthetic)
    if options.source == "synthetic":
        from data_pipelines.synthetic.drawing import check_params

        check_synthetic(options)
        check_params(options.synthetic)
    if options.source == "synthetic_moments":
        from data_pipelines.synthetic.moments import check_params

        check_synthetic(options)
        check_params(options.synthetic)
    if options.source == "synthetic_boxes":
        from data_pipelines.synthetic.moving import check_params

        check_synthetic(options)
        check_params(options.synthetic)
