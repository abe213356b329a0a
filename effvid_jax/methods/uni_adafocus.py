"""Uni-AdaFocus: which frames to look at closely, where in them, and at what size, from one glance.

Wang et al., "Uni-AdaFocus: Spatial-temporal Dynamic Computation for Video Recognition", TPAMI 2024,
arXiv 2412.11228; as its released code computes (LeapLabTHU/Uni-AdaFocus, commit 8846488).

    candidates   S frames; a small network glances at G of them: e_t, g_t, with logits of its own
    when         weights w over the G of convolutions along g_t; F frames to look at: quantiles of w
    where        a_t = (y, x, height, width) in (0, 1)^4 of 3-D convolutions over sg(e), linear in between;
                 sides are least + a (side - least) pixels, corners a (side - sides), resampled to P x P
    focus        l_t of a larger network on the F crops
    head         running maxima (`exits/running_max.py`): G classifiers of the glance, then F of (the focus so
                 far, the whole glance)

    L = 1/2 sum over {crops of the policy, crops anywhere of P pixels} of CE(head) + CE(focus)
      + CE(glance) + CE(expected glance logits under w) + CE(aux(mean of the map e cropped at a_t))
      + rho mean((height, width) - 1)^2 + kappa KL(w || 1/F)

No gradient goes through the crops: `where` learns from the auxiliary classifier that reads the glance's map
at the same places, `when` from the expectation (`policies/focus_frames.py`). With `early_exit` a video may
stop after the glance, and after each crop; other candidates are read only if it goes on.

What differs from the release: `where` is evaluated once a step, not twice with the same input, so its running
statistics move half as fast.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines import Field
from effvid_jax.errors import UserError
from effvid_jax.exits import executor
from effvid_jax.losses import weighted_mean
from effvid_jax.methods import exiting, looking
from effvid_jax.methods.uni_adafocus_net import UniAdaFocusNet


class UniAdaFocus(looking.Looking):
    """The method of a config; reads `config.model`, its `glance`, `config.method` and the size of clips.

    Raises:
        UserError: networks, numbers of frames, sides or places to stop that do not fit.
    """

    @dataclasses.dataclass(frozen=True)
    class Settings(looking.LookingSettings):
        """Defaults are the released settings; the candidates are `config.data.num_frames`."""

        training_only: ClassVar = (*looking.LookingSettings.training_only, "size_weight", "uniform_weight")

        glanced: int = 16  # G, frames of the glance, a divisor of the candidates
        focused: int = 16  # F, frames that are looked at closely
        least_side: int = 96  # of a crop, in pixels
        where_width: int = 128  # channels of the policy over places
        when_width: int = 64  # channels of the policy over frames
        temperature: float = 1.0  # of the weights that frames are chosen by
        size_weight: float = 1.0  # rho: small crops cost; 0.75 on Mini-Kinetics
        uniform_weight: float = 0.0  # kappa: weights far from equal cost; released: 0

        bounds: ClassVar = looking.LookingSettings.bounds | {
            **dict.fromkeys(("glanced", "focused"), Field.integer(1, 256)),
            **dict.fromkeys(("where_width", "when_width"), Field.integer(1, 2**16)),
            **dict.fromkeys(("size_weight", "uniform_weight"), Field.number(0, 1e9)),
            "least_side": Field.integer(1, 2**14), "temperature": Field.number(above=0, most=1e6)}

        def check(self, config):
            """Raises UserError for numbers of frames or sides that do not fit, or what others refuse."""
            super().check(config)
            self._check_side(config, "least_side")
            s = config.data.num_frames
            candidates = f"the candidates, config.data.num_frames={s}"
            if s % self.glanced or s < 2 * self.glanced:
                raise UserError(f"config.method.glanced={self.glanced}: expected a half, a third, ... of "
                                f"{candidates}: one frame of each part is glanced at.")
            if self.focused > s:
                raise UserError(f"config.method.focused={self.focused} is more than {candidates}.")
            if self.patch < self.least_side:
                raise UserError(f"config.method.patch={self.patch} is less than config.method.least_side="
                                f"{self.least_side}, but crops anywhere have this many pixels.")

    def __init__(self, config, task):
        super().__init__(config, task)
        settings, s = self.settings, config.data.num_frames
        part = s // settings.glanced
        self.places = settings.places(0, settings.focused)
        self.order = (*range(1, s, part), *(t for t in range(s) if t % part != 1))
        self._build(functools.partial(
            UniAdaFocusNet, num_classes=task.num_outputs, candidates=s, glanced=settings.glanced,
            focused=settings.focused, patch=settings.patch, least=settings.least_side,
            hidden=settings.where_width, hidden_when=settings.when_width, temperature=settings.temperature,
            width=settings.head_width, glance_side=config.model.glance.get("resolution", 0)))

    def loss(self, params, variables, batch, rng):
        """See `Method.loss`; L of the module docstring."""
        drop_rng, draw_rng = jax.random.split(rng)
        out, stats = self._run(params, variables, batch, drop_rng, rng=draw_rng)
        settings, w_BG, sides = self.settings, out["weights"], out["actions"][..., 2:]
        distance_B = jnp.square(sides - 1).mean(axis=(1, 2))
        divergence_B = (w_BG * (jnp.log(jnp.maximum(w_BG, 1e-30)) + np.log(settings.focused))).sum(axis=1)
        logits = {"glance": [out["global_logits"]], "when": [out["expected_logits"][:, None]],
                  "where": [out["aux_logits"][:, None]],
                  "head": [branch["checkpoints"] for branch in out["branches"]],
                  "focus": [branch["local_logits"] for branch in out["branches"]]}
        terms = {name: sum(self._mean_loss(x, batch) for x in some) / len(some)
                 for name, some in logits.items()}
        terms["size"] = settings.size_weight * weighted_mean(distance_B, batch["mask"])
        terms["uniform"] = settings.uniform_weight * weighted_mean(divergence_B, batch["mask"])
        value = sum(terms.values())
        scalars = {f"loss_{name}": x for name, x in terms.items()} | {
            "loss": value, **self.task.batch_scalars(out["checkpoints"][:, -1], batch)}
        return value, (stats, scalars)

    # ------------------------------------------------------------------------------------ inference
    def checkpoints(self, variables, clips):
        """See `Exiting.checkpoints`; 'focus_frames' (N, F) and 'crops' (N, F, 4), see `AdaFocusV2`."""
        _, out = self.model.apply(exiting.network(variables), clips)
        least = self.settings.least_side / clips.shape[2]
        sides = least + out["focus_actions"][..., 2:] * (1 - least)
        corners = out["focus_actions"][..., :2] * (1 - sides)
        at = self.settings.glanced - 1 + jnp.array(self.places)
        return {"checkpoints": out["checkpoints"][:, at], "focus_frames": out["focus_frames"],
                "crops": jnp.concatenate([corners, sides], axis=-1)}

    def steps(self):
        """See `Stops.steps`: the glance; then the other candidates, from which all crops are cut."""
        found, read = [], 0
        for before, place in zip((0, *self.places), self.places):
            to = self.clip_shape[0] if place else self.settings.glanced
            found.append(executor.Step(functools.partial(self._step, before, place), read, to))
            read = to
        return found

    def _step(self, before, place, variables, state, frames):
        """From `before` crops to `place` of them; nothing has been seen where the state is {}."""
        def apply(*args):
            return self.model.apply(exiting.network(variables), *args[1:], method=args[0])

        glanced = self.settings.glanced
        if not state:
            known, logits = apply("begin", self.sight(frames[:, :glanced]))
            state = {"known": known, "frames": frames[:, :glanced]}
            frames = frames[:, glanced:]
        if not place:
            return state, logits
        if "known" in state:
            clips = jnp.concatenate([state["frames"], frames], axis=1)[:, jnp.argsort(jnp.array(self.order))]
            state = {"glance": state["known"]["glance"], "crops": apply("choose", state["known"],
                                                                        self.sight(clips))}
        crops, new = state["crops"], place - before
        z, logits = apply("go_on", state["glance"], state.get("seen"), crops[:, :new], place)
        left = {"crops": crops[:, new:]} if new < crops.shape[1] else {}
        return {"glance": state["glance"], "seen": z, **left}, logits

    def full(self, variables, clips):
        """See `Stops.full`."""
        return self._step(0, self.settings.focused, variables, {}, clips[:, jnp.array(self.order)])[1]
