"""What a field of a configuration may hold: its type and its bounds, and the words for anything else.

    Field.integer(1)                 Field.number(0, 1)             Field.number(above=0, below=1)
    Field.choice("none", "memory")   Field.many(Field.integer(0))   Field.text()

The fields of `config.data` are in `options.py`, all others in `effvid_jax/start/bounds.py`.
"""

import dataclasses
import math
import numbers
import operator
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

SHOWN = 60  # characters of a value in a message
LONGEST = 10_000  # entries of a sequence, characters of a text


@dataclasses.dataclass(frozen=True)
class Field:
    """One field; made by the functions below.

    Attributes:
        kind: what a value is, with its article: 'an integer'.
        fits: value -> whether it is of that kind.
        least, most, above, below: bounds; `above` and `below` exclude themselves. None: no bound.
        choices: the only values, if not empty.
        each: of the entries of a sequence.
    """

    kind: str
    fits: Callable[[Any], bool]
    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None
    choices: tuple = ()
    each: "Field | None" = None

    def problem(self, value) -> str:
        """What was expected instead of `value`; '' if there is nothing wrong with it."""
        if not self.fits(value):
            return ", ".join(filter(None, (self.kind, self._range())))
        if self.choices and value not in self.choices:
            return f"one of {', '.join(map(str, self.choices))}"
        if self.each is not None:
            if len(value) > LONGEST:
                return f"at most {LONGEST} entries"
            problems = ((self.each.problem(x), i) for i, x in enumerate(value, 1))
            return next((f"{problem} in entry {i}" for problem, i in problems if problem), "")
        return next((words for wrong, words in self._bounds(value) if wrong), "")

    def words(self) -> str:
        """What a value may be: 'an integer, at least 1'."""
        if self.choices:
            return f"one of {', '.join(map(str, self.choices))}"
        if self.each is not None:
            return f"a sequence, each entry {self.each.words()}"
        return ", ".join(filter(None, (self.kind, self._range())))

    def _range(self) -> str:
        return " and ".join(words for _, words in self._bounds(0))

    def _bounds(self, value):
        """(whether a value is beyond it, words) of every bound."""
        kinds = (("more than", self.above, operator.le), ("at least", self.least, operator.lt),
                 ("at most", self.most, operator.gt), ("less than", self.below, operator.ge))
        return [(beyond(value, bound), f"{word} {bound:g}" if isinstance(bound, float) else f"{word} {bound}")
                for word, bound, beyond in kinds if bound is not None]

    # ------------------------------------------------------------------------------------ the kinds
    @staticmethod
    def integer(least=None, most=None) -> "Field":
        """A whole number; True and False are none."""
        return Field("an integer", _is_integer, least, most)

    @staticmethod
    def number(least=None, most=None, *, above=None, below=None) -> "Field":
        """A finite number."""
        return Field("a finite number", _is_number, least, most, above, below)

    @staticmethod
    def flag() -> "Field":
        """True or False."""
        return Field("True or False", lambda value: isinstance(value, bool))

    @staticmethod
    def text() -> "Field":
        """A string that can be the name of a file; '' as well."""
        return Field("a text that a file can be called", _is_text)

    @staticmethod
    def choice(*choices) -> "Field":
        """One of some words."""
        return Field("a text", lambda value: isinstance(value, str), choices=choices)

    @staticmethod
    def pattern() -> "Field":
        """A regular expression."""
        return Field("a regular expression", _is_pattern)

    @staticmethod
    def template() -> "Field":
        """A name with a number in it, such as 'img_{:05}.jpg'."""
        return Field("a name with a place for the frame's number, such as img_{:05}.jpg", _is_template)

    @staticmethod
    def many(each: "Field") -> "Field":
        """A sequence of such values; () as well."""
        return Field("a sequence, each entry " + each.kind, _is_sequence, each=each)

    @staticmethod
    def group() -> "Field":
        """Fields by name."""
        return Field("a group of fields", lambda value: isinstance(value, Mapping) or hasattr(value, "items"))


def shown(value) -> str:
    """A value for a message: in one line, shortened."""
    text = " ".join(repr(value).split())
    return text if len(text) <= SHOWN else f"{text[:SHOWN - 3]}..."


def _is_integer(value) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _is_number(value) -> bool:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer that no float holds
        return False


def _is_text(value) -> bool:
    if not isinstance(value, str) or "\0" in value or len(value) > LONGEST:
        return False
    try:
        os.fsencode(value)
    except UnicodeError:
        return False
    return True


def _is_pattern(value) -> bool:
    if not _is_text(value):
        return False
    try:
        re.compile(value)
    except (re.error, OverflowError, RecursionError):
        return False
    return True


def _is_template(value) -> bool:
    if not _is_text(value) or re.search(r"\d{4}", value):  # wider numbers are no name of a file
        return False
    try:
        return bool(value.format(0))
    except (ValueError, LookupError, TypeError, AttributeError):
        return False


def _is_sequence(value) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))
