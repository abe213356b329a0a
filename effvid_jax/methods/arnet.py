"""AR-Net: a light policy decides for every frame which network sees it in which resolution, or to skip it.

Meng et al., "AR-Net: Adaptive Frame Resolution for Efficient Action Recognition", ECCV 2020, arXiv
2007.15796; released code: mengyuest/AR-Net (ops/models_ada.py, main_base.py), whose behaviour is the default.

    h_t = LSTM(g(x_t at 84 pixels))               g: MobileNetV2, pooled
    a_t = one_hot(argmax(log p_t + noise)),  p_t = softmax(W h_t)      straight-through, `policies/choice.py`
    z_ti = logits of predictor i on frame t at its resolution; the policy's own classifier is the last
    answer = sum_t sum_i a_ti z_ti / max(1, frames that are not skipped)
    L = alpha CE(answer) + beta (sum_i usage_i gmacs_i + w ||usage - mean usage||_2)

A skip of n drops a frame and the n - 1 that follow; meanwhile action and h stay, while the cell state and the
LSTM go on (`hold_cell`: as a reader would expect). A video of skips alone is answered by zeros, and counted
as 'blind'.

Stages as released: 'predictors' trains each network alone (their losses are added: nothing is shared), then
the policy learns with all of them, then the policy is frozen at a low temperature. The released test draws
actions, too (`noise_at_test`); by default the most probable one is taken.

Cost of a video: the policy on every frame, which the LSTM needs, and the predictor of each frame that is not
skipped. 'gmacs_paper' is the released sum: BN counted, a skip of n charged 1/n of a frame's policy.
`form='routed'` really runs each predictor on its frames alone (`exits/router.py`); answers are the same.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines import Field
from effvid_jax import cost
from effvid_jax.backbones import blocks
from effvid_jax.cost.parts import part_gmacs
from effvid_jax.errors import UserError
from effvid_jax.exits.router import Router
from effvid_jax.losses import weighted_mean
from effvid_jax.methods import base, building, frame_networks
from effvid_jax.policies import actions, choice, losses, schedule

FORMS = ("dense", "routed")
LSTM_PAPER = 2 * 1280**2 / 1e9  # what the released code counts for the LSTM of a frame


class Network(nn.Module):
    """Predictors, and the policy that chooses between them and skips.

    Attributes:
        predictors: networks of single frames.
        glance: the policy's network.
        num_classes: K.
        resolutions: side of the input of each predictor, and of the glance; 0: as the clip is.
        skips, hidden, hold_cell: see `actions.SkippingPolicy`.
    """

    predictors: tuple[nn.Module, ...]
    glance: nn.Module
    num_classes: int
    resolutions: tuple[int, ...]
    skips: tuple[int, ...] = (1, 2, 4)
    hidden: int = 512
    hold_cell: bool = False

    def setup(self):
        self.policy = actions.SkippingPolicy(
            self.hidden, len(self.predictors) + 1 + len(self.skips), self.skips, self.hold_cell)
        self.fc = blocks.Dense(self.num_classes)

    def decide(self, x_BTHWC, train: bool = False, tau=1.0, noise_BTA=None):
        """Policy logits (B, T, A), its own class logits (B, T, K), actions (B, T, A), h (B, T, H)."""
        g_BTC = frame_networks.pooled(self.glance, base.resize(x_BTHWC, self.resolutions[-1]), train)
        logits, hidden, taken = self.policy(g_BTC, tau, noise_BTA)
        return logits, self.fc(hidden), taken, hidden

    def see(self, x_BTHWC, predictor: int, train: bool = False):
        """Class logits (B, T, K) of one predictor on every frame."""
        return frame_networks.frame_logits(self.predictors[predictor],
                                     base.resize(x_BTHWC, self.resolutions[predictor]), train)

    def __call__(self, x_BTHWC, train: bool = False, tau=1.0, noise_BTA=None):
        """Everything on every frame: logits (B, K), and 'policy', 'actions', 'predictors' (B, T, P, K).

        'pooled' is what the policy's own classifier reads.
        """
        policy, own, taken, hidden = self.decide(x_BTHWC, train, tau, noise_BTA)
        each = jnp.stack([*(self.see(x_BTHWC, i, train) for i in range(len(self.predictors))), own], axis=2)
        return actions.combine(taken[..., :each.shape[2]], each), {
            "policy": policy, "actions": taken, "predictors": each, "pooled": hidden}


class ARNet(base.Method):
    """The method of a config; `config.model` is the first predictor, its `glance` the policy's network.

    Raises:
        UserError: a network that relates frames, or settings that do not fit each other.
    """

    @dataclasses.dataclass(frozen=True)
    class Settings(base.MethodSettings):
        """Numbers of the released scripts (scripts_train.sh) unless a comment says otherwise."""

        training_only: ClassVar = ("starts", "objective", "accuracy_weight", "efficiency_weight",
                                   "balance_weight", "tau", "tau_decay", "tau_every")

        others: tuple[str, ...] = ("resnet34", "resnet18")  # predictors beside config.model.backbone
        resolutions: tuple[int, ...] = (168, 112)  # of their input, in pixels
        starts: tuple[str, ...] = ()  # workdirs that networks begin with: the policy's, those of predictors
        skips: tuple[int, ...] = (1, 2, 4)  # frames that each skip leaves out, its own included
        hidden: int = 512  # of the LSTM
        hold_cell: bool = False  # in a skip all of the LSTM's state stays; the released code holds h alone
        objective: str = "joint"  # predictors: each network learns alone | joint: policy and predictors
        accuracy_weight: float = 0.95  # alpha
        efficiency_weight: float = 0.05  # beta
        balance_weight: float = 3.0  # w
        tau: float = 5.0  # temperature of the choice at the first step
        tau_decay: float = 0.045  # it falls by exp(-this) every `tau_every` steps
        tau_every: int = 209  # an epoch of the released runs: 10024 videos in batches of 48
        noise_at_test: bool = False  # actions are drawn in evaluation, too; released: they are
        form: str = "dense"  # evaluation: everything computed and masked | routed: frames to their network

        bounds: ClassVar = {
            "resolutions": Field.many(Field.integer(1, 2**14)), "skips": Field.many(Field.integer(1, 2**10)),
            "hidden": Field.integer(1, 2**14), "accuracy_weight": Field.number(0, 1e9),
            "efficiency_weight": Field.number(0, 1e9), "balance_weight": Field.number(0, 1e9),
            "tau": Field.number(above=0, most=1e6), "tau_decay": Field.number(0, 1e6),
            "tau_every": Field.integer(1, 2**31 - 1), "objective": Field.choice("predictors", "joint"),
            "form": Field.choice(*FORMS)}

        def check(self, config):
            """Raises UserError for predictors without a resolution."""
            if len(self.others) != len(self.resolutions):
                raise UserError(f"config.method.resolutions={self.resolutions}: expected one for each of "
                                f"config.method.others={self.others}.")

    pictures = {"usage": ("Actions", "Share of the frames that each network sees, and that are skipped, per "
                                     "class.")}

    def __init__(self, config, task):
        super().__init__(config, task)
        s, k = self.settings, task.num_outputs
        glance, first = frame_networks.pair(config, task)
        others = [frame_networks.build(config.model, k, "config.method.others", name) for name in s.others]
        self.model = Network((first, *others), glance, k, (0, *s.resolutions, config.model.glance.resolution),
                             s.skips, s.hidden, s.hold_cell)
        side = self.resolution or config.data.test_crop_size
        self.clip_shape = (config.data.num_frames, side, side, 3)
        self.names = [f"{name}_{size}" for name, size in zip(
            (config.model.backbone, *s.others), (side, *s.resolutions), strict=True)]
        self.names += ["policy", *(f"skip{n}" for n in s.skips)]
        if twice := next((name for name in self.names if self.names.count(name) > 1), ""):
            raise UserError(f"config.method.others={s.others}, resolutions={s.resolutions}, skips={s.skips}: "
                            f"two actions are alike, {twice}; expected each of them once.")
        self._glance_side = config.model.glance.resolution or side
        self._seen = len(s.others) + 2  # actions that look at a frame
        policy, actions = self.costs()
        self._gmacs = jnp.asarray(actions, jnp.float32)
        self.full_gmacs = policy + config.data.num_frames * float(actions.max())

    @classmethod
    def inference(cls, config, task):
        """Nothing to start from is loaded."""
        return cls(frame_networks.without_starts(config), task)

    def costs(self, convention: str = "macs") -> tuple[float, np.ndarray]:
        """GMACs of the policy on a clip, and (A,) of each action on a frame."""
        policy = part_gmacs(self.model, self.clip_shape, "decide", (1, *self.clip_shape),
                            convention=convention)
        frame = (1, 1, *self.clip_shape[1:])
        each = [part_gmacs(self.model, self.clip_shape, "see", frame, convention=convention, predictor=i)
                for i in range(len(self.model.predictors))]
        return policy, np.array([*each, 0.0, *(0.0 for _ in self.settings.skips)])

    @functools.cached_property
    def paper_costs(self) -> np.ndarray:
        """(A,) GMACs that the released code charges for each action on a frame, its policy included."""
        size = self._glance_side
        policy = cost.count(self.model.glance, (1, size, size, 3), "thop").gmacs + LSTM_PAPER
        return self.costs("thop")[1] + policy / np.array([1] * self._seen + list(self.settings.skips))

    def init(self, rng, clip_shape):
        """See `Method.init`."""
        params, stats = building.init_backbone(self.model, rng, clip_shape)
        names = ["glance", *(f"predictors_{i}" for i in range(len(self.model.predictors)))]
        params, stats = frame_networks.started(params, stats, names, self.settings.starts)
        return base.Variables(params, schedule.begin(stats))

    # ------------------------------------------------------------------------------------- training
    def loss(self, params, variables, batch, rng):
        """See `Method.loss`; L of the module docstring."""
        s, clips, mask = self.settings, self._clips(batch), batch["mask"]
        tau = choice.falling(s.tau, s.tau_decay, s.tau_every, schedule.made(variables))
        drop, draw = jax.random.split(rng)
        noise = choice.gumbel(draw, (*clips.shape[:2], len(self.names)))
        (logits, found), updated = self.model.apply(
            schedule.network(variables.replace(params=params)), clips, train=True, tau=tau, noise_BTA=noise,
            rngs={"dropout": drop}, mutable=["batch_stats"])
        stats = schedule.after(updated["batch_stats"], variables)
        if s.objective == "predictors":
            each_BPK = found["predictors"].mean(axis=1)
            parts = {f"loss_{name}": weighted_mean(self.task.loss(each_BPK[:, i], batch), mask)
                     for i, name in enumerate(self.names[:self._seen])}
            value = sum(parts.values())
            return value, (stats, {"loss": value, **parts,
                                   **self.task.batch_scalars(each_BPK[:, 0], batch)})
        ce = weighted_mean(self.task.loss(logits, batch), mask)
        gmacs = losses.expected_cost(found["actions"], self._gmacs, mask)
        balance = losses.usage_balance(found["actions"], mask)
        value = s.accuracy_weight * ce + s.efficiency_weight * (gmacs + s.balance_weight * balance)
        shares = losses.usage(jax.lax.stop_gradient(found["actions"]), mask)
        return value, (stats, {
            "loss": value, "loss_cls": ce, "frame_gmacs": gmacs, "balance": balance, "tau": tau,
            **{f"usage/{name}": shares[i] for i, name in enumerate(self.names)},
            **self.task.batch_scalars(logits, batch)})

    # ------------------------------------------------------------------------------------ inference
    def predict(self, variables, batch):
        """See `Method.predict`."""
        def look(clips):
            logits, found = self.model.apply(schedule.network(variables), clips, noise_BTA=self._noise(clips))
            return logits, found["actions"]

        return self._prediction(batch["video"].shape[:2], *base.over_views(
            look, batch["video"], self.sight, self.views_per_pass))

    def _noise(self, clips):
        """What actions of clips are drawn with in evaluation; None: they are not."""
        if not self.settings.noise_at_test:
            return None
        return choice.gumbel(choice.keys_of(clips), (*clips.shape[:2], len(self.names)))

    def _prediction(self, shape, logits, taken_NTA):
        """`Prediction` of B videos with V views, from what their clips say and did."""
        (b, v), policy = shape, self.costs()[0]
        counts_BVA = taken_NTA.astype(jnp.float32).reshape(b, v, -1, len(self.names)).sum(axis=2)
        logits = logits.astype(jnp.float32).reshape(b, v, -1)
        gmacs_BV = policy + counts_BVA @ self._gmacs
        extra = {"actions": taken_NTA.argmax(axis=-1).astype(jnp.int8).reshape(b, v, -1),
                 "usage": counts_BVA.mean(axis=1) / taken_NTA.shape[1],
                 "seen": counts_BVA[..., :self._seen].sum(axis=(1, 2)), "clip_gmacs": gmacs_BV,
                 "gmacs_paper": (counts_BVA @ jnp.asarray(self.paper_costs, jnp.float32)).sum(axis=1)}
        return base.Prediction(self.task.mean_of_views(logits), gmacs_BV.sum(axis=1),
                               extra | base.clip_answers(self.task, logits))

    def runners(self):
        """Everything computed and masked, or frames sent to their network."""
        return {"dense": base.Runner(predict=self.predict), "routed": base.Runner(routed=self.routed)}

    @property
    def runner(self):
        """`config.method.form`."""
        return self.settings.form

    def routed(self, variables, batch):
        """`predict` in which each predictor runs on its frames alone; not to be traced."""
        video = jnp.asarray(batch["video"])
        own, taken = self._decided(variables, video)
        frames, chosen = video.reshape(-1, *video.shape[3:]), np.asarray(taken.argmax(axis=-1)).ravel()
        found = self._router(len(frames)).run(variables, frames, chosen, own)
        return self._answered(found, taken, video.shape[:2])

    @functools.cached_property
    def _decided(self):
        @jax.jit
        def decide(variables, video):
            clips = self.sight(video.reshape(-1, *video.shape[2:]))
            _, own, taken, _ = self.model.apply(schedule.network(variables), clips,
                                                noise_BTA=self._noise(clips), method="decide")
            mine = taken[..., self._seen - 1:self._seen]
            return (own * mine).reshape(-1, own.shape[-1]), taken

        return decide

    @functools.cached_property
    def _answered(self):
        @functools.partial(jax.jit, static_argnums=2)
        def answer(found, taken, shape):
            logits_NTK = found.reshape(*taken.shape[:2], -1)
            seen_N = taken[..., :self._seen].sum(axis=(1, 2))
            return self._prediction(shape, logits_NTK.sum(axis=1) / jnp.maximum(seen_N, 1)[:, None], taken)

        return answer

    @functools.cache  # noqa: B019 - a method lives as long as its run
    def _router(self, rows: int) -> Router:
        def see(i, variables, frames):
            clips = self.sight(frames[:, None])
            return self.model.apply(schedule.network(variables), clips, i, method="see")[:, 0]

        return Router([functools.partial(see, i) for i in range(len(self.model.predictors))],
                      min(rows, 64))

    def analyse(self, rows, variables, workdir, split):
        """Which actions were taken, and what the released code would have counted."""
        return actions.analyse(rows, self.names, self.task, workdir, split) | {
            "gmacs_paper": float(rows["gmacs_paper"].mean(dtype=np.float64))}
