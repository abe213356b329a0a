"""VA-RED2: every clip decides, layer by layer, how many channels and frames a convolution computes.

Pan et al., "VA-RED2: Video Adaptive Redundancy Reduction", ICLR 2021, arXiv 2102.07887. No code was
published; formulas and tables are known, the rest is a choice of ours, see `effvid_jax/gating/gates.py` (the
gated convolution) and `VaRed2.Settings` (what is the paper's and what is ours).

    L = CE(logits, y) + lambda_e * L_e
    L_e = ( mu_0 * sum_l C_l / (sum_k C_k) * r_l / R_l )^2         mean over clips

C_l: multiply-adds of gated convolution l; r_l, R_l: ratio and stride of the largest variant in use;
mu_0: 1 for clips that are classified correctly, else 0, without a gradient. r_l / R_l is a step function
of the gates; its gradient is passed straight through (ours). With `target` lambda_e is what keeps the cost
at a share of the static network's (ours, see `effvid_jax/gating/target.py`); below it is negative.

Cost of a clip: the plain network's, less what the gated convolutions do not compute, plus their cheap
operations and gates; 'gmacs_plain_ops' in `Prediction.extra` leaves the last two out, as the paper seems
to. Gates can fail in three ways. A *dead* layer has no weight left for some clip: it gives zeros, is
counted as 'dead', and since L_e never pushes the last weight down, only the accuracy loss can get there;
`leak` lets it return. *Collapsed* gates decide the same for all clips: the network is then a smaller
static one, which is no error but is told ('varying_layers' = 0). Gates that are *not finite* end training
(the loss is not finite either) and are an error in evaluation.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import ClassVar

import flax
import jax
import jax.numpy as jnp

from data_pipelines import Field
from effvid_jax import cost
from effvid_jax.errors import UserError
from effvid_jax.gating import decisions, freezing, gates, inputs, target
from effvid_jax.losses import weighted_mean
from effvid_jax.methods import base
from effvid_jax.methods.gated import Gated, Gates

OF_THE_CONVOLUTION = ("search_space", "temporal", "channel", "cheap_kernel", "cheap_scale", "gate_width",
                      "gate_inputs", "gate_normalise", "gate_scale", "discrete", "beta", "beta_reduced",
                      "leak", "form", "positions", "frozen")


class RedundancyGates(Gates):
    """The part: convolutions that are `GatedConv`, and lambda_e * L_e."""

    marker, records = "gate/beta", (target.RECORD,)

    def __init__(self, config, task, settings):
        super().__init__(config, task, settings)
        self.clip_by_clip = settings.form == "compact" and not settings.positions

    def make_conv(self):
        """The gated convolution with these settings."""
        return partial(gates.GatedConv, layers=self.layers,
                       **{name: getattr(self.settings, name) for name in OF_THE_CONVOLUTION})

    def layer_names(self, params):
        """See `Gates.layer_names`; those that are frozen are among them."""
        names = {*super().layer_names(params), *freezing.read(self.settings.frozen)}
        return sorted(names, key=gates.natural_order)

    def init(self, variables, rng, clip_shape):
        """See `Gates.init`.

        Raises:
            UserError: no convolution decides anything, one that is frozen is not there, or a target below
                what is left when every gate is closed.
        """
        variables = super().init(variables, rng, clip_shape)
        there = flax.traverse_util.flatten_dict(variables.params, sep="/")
        for path in freezing.read(self.settings.frozen):
            if not {f"{path}/weights", f"{path}/{self.marker}"} & there.keys():
                raise UserError(f"config.method.frozen: {path!r} is no gated convolution of "
                                f"{self.config.model.backbone}: expected some of "
                                f"{', '.join(decisions.layer_names(variables.params, self.marker))}.")
        if not self.settings.target:
            return variables
        clip = jax.ShapeDtypeStruct((1, *self.method.seen_shape(clip_shape)[1:]), jnp.float32)
        found = jax.eval_shape(lambda clip: self.run(variables.network, clip)[1], clip)
        static = cost.gmacs(self.method.model, clip.shape[1:])
        least = 1 - sum(d.macs / 1e9 * (1 - d.least) for d in found) / static
        if self.settings.target < least:
            raise UserError(
                f"config.method.target={self.settings.target}: with every gate closed as far as "
                f"config.method.search_space={self.settings.search_space} lets it, this network still costs "
                f"{least:.2f} of the static one. Ask for more, or for a larger search space.")
        return variables.replace(stats={**variables.stats, target.RECORD: target.begin()})

    def penalty(self, params, stats, found, logits, batch, clip_shape):
        """lambda_e * L_e; lambda_e as set, or as the target needs it."""
        del params
        mask, wanted, weight = batch["mask"], self.settings.target, self.settings.efficiency_weight
        right = jax.lax.stop_gradient(self.task.right(self.task.answers(logits), batch))
        if not wanted:
            return weight * weighted_mean(efficiency_loss(found, right), mask), {}, {}
        weight = target.weight(stats[target.RECORD], wanted, weight)
        rising = right * 2 * jax.lax.stop_gradient(decisions.computed_share(found))
        rising *= decisions.opening(found, 1.0 if self.settings.discrete else self.settings.leak or 1.0)
        value = weight * weighted_mean(efficiency_loss(found, right) + (weight < 0) * rising, mask)
        static = cost.gmacs(self.method.model, clip_shape)
        share = weighted_mean(jax.lax.stop_gradient(sum(decisions.clip_gmacs(found, static))), mask) / static
        return value, {target.RECORD: target.update(stats[target.RECORD], share, wanted)}, {
            "gates/cost": share, "gates/efficiency_weight": weight}


class VaRed2(Gated):
    """The method of a config; reads `config.model` and `config.method`.

    Raises:
        UserError: a backbone without gated layers, or a setting that does not fit.
    """

    @dataclasses.dataclass(frozen=True)
    class Settings(base.MethodSettings):
        """Of all this, only the search space is stated by the paper."""

        training_only: ClassVar = ("efficiency_weight", "target", "gate_scale", "beta", "beta_reduced",
                                   "cheap_scale", "leak")

        search_space: int = 2  # the paper: 2 (all, 1/2) or 3 (all, 1/2, 1/4)
        temporal: bool = True  # gates decide on frames; the paper: both, its Table 10 one of them alone
        channel: bool = True  # gates decide on channels
        layers: str = ""  # regular expression of gated layers; "": the backbone's, inferred from its costs
        efficiency_weight: float = 0.5  # lambda_e; ours (1.5 from a static network)
        target: float = 0.0  # share of the static network's multiply-adds to reach, such as 0.7: then the
        # weight is moved in every step, `efficiency_weight` its size at a distance; 0: it stays; ours
        gate_width: int = 0  # hidden units; 0: max(16, channels / 4), ours
        gate_inputs: str = "mean"  # what a gate sees of its layer's input: mean (the paper's) | difference
        # (between neighbouring frames) | deviation (over space), or several joined by '+'
        gate_normalise: bool = False  # that by running statistics, in training too; ours
        gate_scale: float = 0.01  # initial size of a gate's last layer, which makes clips differ; ours
        discrete: bool = False  # one variant per axis, R = 2^p, in place of weights; start with beta_reduced
        # below beta, or half of what is computed is given up before the first step
        beta: float = 1.0  # initial bias of the gates for the whole convolution: it starts active; ours
        beta_reduced: float = 1.0  # for its variants (0.5 from a static network); at 0.1 layers died; ours
        cheap_scale: float = 1.0  # initial size of what makes channels: 1 keeps the variance; ours
        leak: float = 0.1  # gradient of a closed variant, so that it can open again; the paper's gate has 0
        cheap_kernel: int = 3  # side of the depthwise operation that makes channels; ours
        form: str = "mixed"  # evaluation: mixed | compact (computes what each clip's gates ask for)
        positions: int = 0  # compact: clips are grouped up to this many output positions of a layer (GPU:
        # 2**18, say); 0: the network runs clip by clip, the fastest on a CPU; ours
        frozen: tuple[str, ...] = ()  # layers that decide nothing: `--mode=freeze` writes these; ours

        bounds: ClassVar = {
            "search_space": Field.integer(2, 4), "layers": Field.pattern(),
            "efficiency_weight": Field.number(0, 1e9), "gate_width": Field.integer(0, 2**16),
            "target": Field.number(0, 1), "gate_scale": Field.number(0, 1e6),
            "beta": Field.number(-1e6, 1e6), "beta_reduced": Field.number(-1e6, 1e6),
            "cheap_scale": Field.number(0, 1e6), "leak": Field.number(0, 1e6),
            "cheap_kernel": Field.integer(1, 255), "positions": Field.integer(0, 2**31 - 1)}

        def check(self, config):
            """See `MethodSettings.check`."""
            try:
                inputs.parse(self.gate_inputs)
            except UserError as error:
                raise UserError(f"config.method.{error}") from error
            if self.target and not self.efficiency_weight:
                raise UserError(f"config.method.efficiency_weight=0.0: nothing moves the cost to "
                                f"config.method.target={self.target}; expected more than 0, such as 1.5.")
            freezing.read(self.frozen)

    gates_class = RedundancyGates

    def __init__(self, config, task):
        super().__init__(config, task)
        self._forms = {self.settings.form: self}

    def runners(self):
        """Both forms of the network."""
        return {form: base.Runner(predict=self.in_form(form).predict) for form in gates.FORMS}

    @property
    def runner(self):
        """`config.method.form`."""
        return self.settings.form

    def in_form(self, form: str) -> VaRed2:
        """This network in another form; made once, so that its functions are compiled once."""
        if form not in self._forms:
            config = self.config.copy_and_resolve_references()
            config.method = dataclasses.replace(self.settings, form=form).to_config()
            self._forms[form] = VaRed2(config, self.task)
        return self._forms[form]


def efficiency_loss(found, right_B):
    """L_e per clip, (B,), of decisions; zero for clips that are classified wrongly."""
    return jnp.square(right_B * decisions.computed_share(found))
