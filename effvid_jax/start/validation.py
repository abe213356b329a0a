"""Evaluations during training may cost less than those at its end: `config.train.validation`."""

from __future__ import annotations

from typing import Any


def during_training(config) -> Any:
    """The config that evaluations during training go by; `config` itself where they are as the last one.

    Args:
        config: of a run. Fields of `config.train.validation` that are not 0 or '' stand for those of
            `config.data`; with `test_clips` no video is sampled twice (`data.twice_sample`).
    """
    changes = {name: value for name, value in config.train.get("validation", {}).items() if value}
    if not changes:
        return config
    config = config.copy_and_resolve_references()
    if "test_clips" in changes:
        config.data.twice_sample = False
    config.data.update(changes)
    return config
