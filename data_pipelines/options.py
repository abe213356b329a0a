"""The data configuration as an object, and its checks that need no data: values, and values that clash."""

import dataclasses
import difflib
import re
import string
from collections.abc import Collection, Mapping

from data_pipelines.errors import DataError

CHOICES = {
    "list_format": ("video", "frames"),
    "sampling": ("segments", "dense"),
    "train_crop": ("multi_scale", "random_resized", "center"),
    "test_crop": ("center", "three"),
    "cache": ("none", "memory"),
}
_AT_LEAST = {
    "num_frames": 1, "frame_interval": 1, "test_clips": 1, "short_side": 1, "crop": 1,
    "test_short_side": 1, "test_crop_size": 1, "batch_size": 1, "eval_batch_size": 1,
    "prefetch": 1, "num_threads": 0, "num_workers": 0, "num_classes": 0, "start_index": 0,
    "seed": 0, "split_seed": 0, "max_broken_share": 0, "cache_gib": 0, "calib_share": 0,
}


@dataclasses.dataclass
class Options:
    """The fields of `config.data`, plain and picklable; `configs/recipes/base.py` has their usual values.

    A field with a default is younger than configurations that were saved with a network: the default is what
    they meant. Further fields NAME_list, which name the list of a split NAME, become attributes, too.
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


def check_options(options: Options, process_count: int = 1) -> None:
    """Raises `DataError` for the first value that cannot work.

    Args:
        options: the data configuration.
        process_count: number of processes that share the global batches.
    """
    for field, choices in CHOICES.items():
        check_choice(field, getattr(options, field), choices)
    for field, least in _AT_LEAST.items():
        value = getattr(options, field)
        if not value >= least:
            raise DataError(f"data.{field}={value} must be at least {least}.")
    check_template("data.frame_template", options.frame_template)
    if options.seed >= 2**32:
        raise DataError(f"data.seed={options.seed} must be below 2**32.")
    if options.max_broken_share > 1:
        raise DataError(f"data.max_broken_share={options.max_broken_share} is a share of the "
                        f"clips: it must be within 0 and 1.")
    for size, side in (("crop", "short_side"), ("test_crop_size", "test_short_side")):
        crop, short = getattr(options, size), getattr(options, side)
        if crop > short:
            raise DataError(f"data.{size}={crop} is larger than data.{side}={short}, the short "
                            f"side of the frames it is cut from. Raise data.{side} or lower "
                            f"data.{size}.")
    if options.test_crop == "three" and options.test_crop_size != options.test_short_side:
        raise DataError(
            f"data.test_crop='three' takes three crops along the long side, so the crop must fill "
            f"the short side: data.test_crop_size={options.test_crop_size} must equal "
            f"data.test_short_side={options.test_short_side} (as the reference asserts).")
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
