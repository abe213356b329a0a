"""The parameters of an embedded benchmark, `config.data.synthetic`: numbers with defaults and limits."""

import difflib
from collections.abc import Mapping

from data_pipelines.errors import DataError
from data_pipelines.fields import Field, shown


def completed(params: Mapping, defaults: Mapping) -> dict:
    """The given parameters completed with the defaults, as plain values of the kinds of these.

    Raises:
        DataError: an unknown parameter (with close matches), or a value of another kind.
    """
    checked = dict(defaults)
    for name in params:
        if name not in checked:
            close = difflib.get_close_matches(name, checked)
            hint = f"did you mean {' or '.join(close)}? " if close else ""
            raise DataError(f"unknown data.synthetic.{name}: {hint}Known: {', '.join(checked)}.")
        default, value = checked[name], params[name]
        if Field.number().problem(value) or type(default)(value) != value:
            raise DataError(f"data.synthetic.{name}={shown(value)} must be a number of the kind of its "
                            f"default, {default!r}.")
        checked[name] = type(default)(value)
    return checked


def within(params: dict, limits: Mapping[str, tuple[float, float]]) -> dict:
    """The same parameters.

    Raises:
        DataError: the first one out of its limits, which belong to what may be.
    """
    for name, (low, high) in limits.items():
        if not low <= params[name] <= high:
            raise DataError(f"data.synthetic.{name}={params[name]} must be within {low} and {high}.")
    return params
