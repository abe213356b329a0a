"""The settings of a method: each field with its default, its meaning and its check in the method's own file.

    class Paper(base.Method):
        @dataclasses.dataclass(frozen=True)
        class Settings(base.MethodSettings):
            weight: float = 100.0  # of the distillation

            bounds: ClassVar = {"weight": Field.number(0, 1e9)}
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from typing import ClassVar, get_args, get_origin, get_type_hints

import ml_collections

from data_pipelines import Field, shown
from effvid_jax import lookup
from effvid_jax.errors import UserError

PACKAGE = "effvid_jax.methods"
_BY_TYPE = {bool: Field.flag(), int: Field.integer(), float: Field.number(), str: Field.text()}


@dataclasses.dataclass(frozen=True)
class MethodSettings:
    """`config.method` as an object; each method has a class of its own.

    Attributes:
        workdirs: fields that name the workdir of another stage of a run, with the stage they are filled from.
        training_only: fields that a trained network is used without.
        bounds: what fields may hold, beside being of their type; words are checked in `check`.
    """

    workdirs: ClassVar[Mapping[str, str]] = {}
    training_only: ClassVar[Sequence[str]] = ()
    bounds: ClassVar[Mapping[str, Field]] = {}

    @classmethod
    def read(cls, method) -> MethodSettings:
        """The settings that a `config.method` holds; a field that an old file lacks has its default.

        Raises:
            UserError: a field that this method does not have, with close matches; a value of another type or
                out of its bounds.
        """
        given = {k: tuple(v) if isinstance(v, list) else v for k, v in dict(method).items() if k != "name"}
        known = [field.name for field in dataclasses.fields(cls)]
        if unknown := [name for name in given if name not in known]:
            raise UserError(f"config.method.{unknown[0]} is no setting of method {cls.method_name()!r}. "
                             f"Close matches: {difflib.get_close_matches(unknown[0], known)}. All: {known}.")
        fields = cls.fields()
        for name, value in given.items():
            if problem := fields[name].problem(value):
                raise UserError(f"config.method.{name}={shown(value)}: expected {problem}.")
        # A whole number of more than 32 bits would not get into an array.
        types = get_type_hints(cls)
        return cls(**{name: float(value) if types[name] is float else value for name, value in given.items()})

    @classmethod
    def fields(cls) -> dict[str, Field]:
        """What every setting may hold: its entry in `bounds`, or anything of its type."""
        types = get_type_hints(cls)

        def of_type(kind):
            if get_origin(kind) is tuple:
                return Field.many(of_type(get_args(kind)[0]))
            return _BY_TYPE.get(kind, Field("a value", lambda value: True))

        return {field.name: cls.bounds.get(field.name) or of_type(types[field.name])
                for field in dataclasses.fields(cls)}

    def to_config(self) -> ml_collections.ConfigDict:
        """The `config.method` that `read` takes, with the method's name."""
        return ml_collections.ConfigDict({"name": self.method_name(), **{
            field.name: getattr(self, field.name) for field in dataclasses.fields(self)}})

    def check(self, config) -> None:
        """Raises UserError for values that a field cannot have, alone or beside the rest of the config."""

    @classmethod
    def method_name(cls) -> str:
        """`config.method.name` of the method whose file defines this class."""
        return lookup.name_of(cls, PACKAGE)

    def _check_known(self, **known: Sequence[str]) -> None:
        for name, values in known.items():
            if getattr(self, name) not in values:
                raise UserError(
                    f"config.method.{name}={getattr(self, name)!r}: expected one of {list(values)}.")

    def _check_least(self, **least: float) -> None:
        for name, value in least.items():
            if getattr(self, name) < value:
                raise UserError(f"config.method.{name}={getattr(self, name)}: expected {value} or more.")
