"""The settings of a method: each field with its default, its meaning and its check in the method's own file.

    class Paper(base.Method):
        @dataclasses.dataclass(frozen=True)
        class Settings(base.MethodSettings):
            weight: float = 100.0  # of the distillation
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from typing import ClassVar

import ml_collections

from effvid_jax import lookup
from effvid_jax.errors import UserError

PACKAGE = "effvid_jax.methods"


@dataclasses.dataclass(frozen=True)
class MethodSettings:
    """`config.method` as an object; each method has a class of its own.

    Attributes:
        workdirs: fields that name the workdir of another stage of a run, with the stage they are filled from.
        training_only: fields that a trained network is used without.
    """

    workdirs: ClassVar[Mapping[str, str]] = {}
    training_only: ClassVar[Sequence[str]] = ()

    @classmethod
    def read(cls, method) -> MethodSettings:
        """The settings that a `config.method` holds; a field that an old file lacks has its default.

        Raises:
            UserError: a field that this method does not have, with close matches.
        """
        given = {k: tuple(v) if isinstance(v, list) else v for k, v in dict(method).items() if k != "name"}
        known = [field.name for field in dataclasses.fields(cls)]
        if unknown := [name for name in given if name not in known]:
            raise UserError(f"config.method.{unknown[0]} is no setting of method {cls.method_name()!r}. "
                             f"Close matches: {difflib.get_close_matches(unknown[0], known)}. All: {known}.")
        return cls(**given)

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
