"""Settings that methods share whose videos are answered as soon as an answer is sure; see `stops.py`."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from data_pipelines import Field
from effvid_jax.errors import UserError
from effvid_jax.exits import executor, risk, rules, stopping
from effvid_jax.methods.settings import MethodSettings

EXECUTORS = ("simulate", *executor.POLICIES)


@dataclasses.dataclass(frozen=True)
class StopSettings(MethodSettings):
    """How videos stop that may."""

    executor: str = "simulate"  # evaluation: compute everything | compact | pool: really stop
    deadline_ms: float = 0.0  # evaluation (by the pool) and predict: for the best answer so far; 0: none
    executor_sizes: tuple[int, ...] = ()  # batch sizes to compile beside eval_batch_size; (): 1/2 to 1/32

    bounds: ClassVar = {
        "deadline_ms": Field.number(0, 1e9), "executor_sizes": Field.many(Field.integer(1, 2**20))}

    def check(self, config):
        """Raises UserError for clips of another size than costs are counted for, or an unknown executor."""
        self._check_known(executor=EXECUTORS)
        crop = config.train.get("validation", {}).get("test_crop_size", 0)
        if crop and not config.model.resolution and crop != config.data.test_crop_size:
            raise UserError(f"config.train.validation.test_crop_size={crop}: costs of exits are counted for "
                            f"config.data.test_crop_size={config.data.test_crop_size}; leave it 0.")


@dataclasses.dataclass(frozen=True)
class CalibratedSettings(StopSettings):
    """When: thresholds from held-out training videos, or by hand.

    Attributes:
        known_rules: what `rule` may be, in the order of scores in a network's record.
    """

    known_rules: ClassVar = rules.RULES
    training_only: ClassVar = ("calibration_videos",)

    rule: str = "confidence"  # margin | entropy | patience | learned, see exits/rules.py
    patience: int = 0  # of that rule: checkpoints in a row that must agree, by hand; 0: as `search` finds
    search: str = "accuracy"  # of thresholds: accuracy (ours) | msdnet, see exits/stopping.py | risk:
    # the cheapest that keep a promise about errors, whatever the budget, see exits/risk.py; ours
    epsilon: float = 0.01  # risk: more errors than full inference, at most
    delta: float = 0.1  # risk: probability with which that may fail
    budget: float = 0.5  # mean cost as a share of full inference, for the thresholds
    budget_gmacs: float = 0.0  # the same in GMACs per video with all its views; 0: `budget` counts
    budget_delta: float = 0.0  # probability with which other videos may cost more; 0: nothing is
    # promised of others than the calibration videos; ours
    thresholds: tuple[float, ...] = ()  # by hand, one a checkpoint; (): from the calibration videos
    calibration_videos: int = 5000  # at most; their scores are saved with the checkpoint

    bounds: ClassVar = StopSettings.bounds | {
        "budget": Field.number(0, 1e6), "budget_gmacs": Field.number(0, 1e12),
        "budget_delta": Field.number(0, below=1), "epsilon": Field.number(above=0, below=1),
        "delta": Field.number(above=0, below=1), "calibration_videos": Field.integer(1, 10**7),
        "patience": Field.integer(0, 256)}

    def check(self, config):
        """Raises UserError for unknown words, no budget, patience beside another choice, or see above."""
        StopSettings.check(self, config)  # by name: in `combined.py` another paper's settings come next
        self._check_known(rule=self.known_rules, search=(*stopping.SEARCHES, risk.SEARCH))
        if not self.budget_gmacs and not self.budget > 0:
            raise UserError(f"config.method.budget={self.budget}: expected a share of the cost of full "
                            f"inference, such as 0.5.")
        if self.patience and (self.rule != "patience" or self.thresholds):
            raise UserError(f"config.method.patience={self.patience} is for config.method.rule="
                            f"'patience' without thresholds: leave it at 0.")

    def check_lengths(self, m: int, checkpoints: str, *more: str) -> None:
        """Refuses what does not fit the places where a video may stop.

        Args:
            m: how many there are.
            checkpoints: a sentence about them, for messages.
            more: names of fields beside `thresholds` that have a value for each.

        Raises:
            UserError: more or fewer values, or a patience with which no video would stop early.
        """
        for name in (*more, "thresholds"):
            values = getattr(self, name)
            if values and len(values) != m:
                raise UserError(f"config.method.{name} has {len(values)} entries; {checkpoints}.")
        if self.patience >= max(2, m):
            raise UserError(f"config.method.patience={self.patience}: no video would stop early on a "
                            f"route of {m} checkpoints; expected less, or 0.")
