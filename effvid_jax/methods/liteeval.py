"""LiteEval: a cheap look at every frame, an expensive one where a gate asks for it.

Wu et al., "LiteEval: A Coarse-to-Fine Framework for Resource Efficient Video Recognition", NeurIPS 2019,
arXiv 1912.01601; released code: zxwu/lite_eval (models/lite_eval.py, main.py), which reads stored features.

    a_t = relu(BN(W_a BN(f_t)))    f: fine network (ResNet-101 at 224 pixels), pooled
    b_t = relu(BN(W_b BN(s_t)))    s: coarse network (MobileNetV2), pooled
    (h', m')_t = LSTM(b_t)         coarse, H' units
    q_t = W_g [b_t, h_(t-1), m_(t-1)]; use = argmax(log softmax q_t + noise / 2), straight-through
    used:     (h, m)_t = LSTM([a_t, b_t])          fine, H units
    skipped:  the first H' entries of (h, m) become (h', m')_t, the others stay
    answer = W h_T
    L = CE + c (mean share of skipped frames - gamma)^2,    c = 2 - exp(-step / budget_steps)

Stages: 'networks' trains the two networks, each with a classifier of its own (the release has features of
trained ones); then everything else learns on the features of both, which stay as they are. The penalty is on
the batch's mean, as released, not on each video. The released step counter begins anew every epoch, which
restarts both schedules; `restart_steps` does that.

Cost of a video: the coarse network, both LSTMs and the gate on every frame, and on used frames the fine
network with W_a. The released program computes everything at every frame; `form='routed'` goes frame by frame
and runs the fine network on the videos that ask for it (`exits/router.py`). Answers are the same.
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
from effvid_jax.backbones import trace
from effvid_jax.cost.parts import part_gmacs
from effvid_jax.errors import UserError
from effvid_jax.exits.router import Router
from effvid_jax.losses import weighted_mean
from effvid_jax.methods import base, building, frame_networks
from effvid_jax.policies import actions, choice, losses, schedule
from effvid_jax.policies.two_cells import SKIP, USE, TwoCells

FORMS = ("dense", "routed")


class Network(nn.Module):
    """A fine and a coarse network, and `TwoCells` on what they see.

    Attributes:
        fine, coarse: networks of single frames.
        cells: what decides and answers.
        resolution: side of the coarse network's input; 0: as the clip is.
    """

    fine: nn.Module
    coarse: nn.Module
    cells: TwoCells
    resolution: int

    def glance(self, x_BTHWC):
        """What the coarse network makes of every frame (B, T, C)."""
        return frame_networks.pooled(self.coarse, base.resize(x_BTHWC, self.resolution))

    def look(self, x_BTHWC, train: bool = False):
        """a_t (B, T, C) of frames, of which the fine network has all the cost."""
        return self.cells.fine(frame_networks.pooled(self.fine, x_BTHWC), train)

    def begin(self, x_BTHWC, train: bool = False):
        """`TwoCells.start` of clips."""
        return self.cells.start(self.glance(x_BTHWC), train)

    def cell(self, method: str, *rest):
        """Another method of the cells."""
        return getattr(self.cells, method)(*rest)

    def alone(self, x_BTHWC, train: bool = False):
        """Logits (B, T, K) of the fine and of the coarse network with classifiers of their own."""
        return (frame_networks.frame_logits(self.fine, x_BTHWC, train),
                frame_networks.frame_logits(self.coarse, base.resize(x_BTHWC, self.resolution), train))

    def __call__(self, x_BTHWC, train: bool = False, tau=1.0, noise_BTA=None):
        """Everything on every frame: logits (B, K), 'gate' and 'actions' (B, T, 2), 'pooled' (B, 1, H)."""
        if self.is_initializing():
            with trace.silence():  # classifiers that no answer needs
                self.alone(x_BTHWC)
        b, coarse = self.begin(x_BTHWC, train)
        logits, gate, taken, h = self.cells.run(self.look(x_BTHWC, train), b, coarse, tau, noise_BTA)
        return logits, {"gate": gate, "actions": taken, "pooled": h[:, None]}


class LiteEval(base.Method):
    """The method of a config; `config.model` is the fine network, its `glance` the coarse one.

    Raises:
        UserError: a network that relates frames, a task without classes, or a coarse cell that is too large.
    """

    @dataclasses.dataclass(frozen=True)
    class Settings(base.MethodSettings):
        """Numbers of the released code's defaults and README (FCVID) unless a comment says otherwise."""

        training_only: ClassVar = ("starts", "objective", "skip_target", "budget_weight", "budget_steps",
                                   "noise_scale", "tau", "tau_decay", "tau_least", "restart_steps")

        starts: tuple[str, ...] = ()  # workdirs that networks begin with: the coarse and the fine one's
        large: int = 2048  # units of the fine LSTM
        small: int = 512  # units of the coarse LSTM, and width of its input
        width: int = 2048  # of the fine LSTM's input from the fine network
        objective: str = "joint"  # networks: each network learns alone | joint: what decides and answers
        skip_target: float = 0.8  # gamma, share of frames that are skipped; README's (the default is 0.9)
        budget_weight: float = 2.0  # c at the end; it begins at 1 less
        budget_steps: int = 500  # of c's rise
        noise_scale: float = 0.5  # of the Gumbel noise
        tau: float = 1.0  # temperature of the choice at the first step
        tau_decay: float = 1e-4  # it falls by exp(-this) every step
        tau_least: float = 0.5  # but not below this
        restart_steps: int = 0  # both schedules begin anew after so many; 0: never. Released: an epoch's
        form: str = "dense"  # evaluation: everything computed and masked | routed: frame by frame

        bounds: ClassVar = {
            **dict.fromkeys(("large", "small", "width"), Field.integer(1, 2**14)),
            "objective": Field.choice("networks", "joint"), "skip_target": Field.number(0, 1),
            "budget_weight": Field.number(0, 1e9), "budget_steps": Field.integer(1, 2**31 - 1),
            "noise_scale": Field.number(0, 1e3), "tau": Field.number(above=0, most=1e6),
            "tau_decay": Field.number(0, 1e6), "tau_least": Field.number(above=0, most=1e6),
            "restart_steps": Field.integer(0, 2**31 - 1), "form": Field.choice(*FORMS)}

        def check(self, config):
            """Raises UserError for a coarse state that has no place in the fine one."""
            if self.small > self.large:
                raise UserError(f"config.method.small={self.small}: expected at most config.method.large="
                                f"{self.large}, whose first entries it overwrites.")

    pictures = {"usage": ("Actions", "Share of the frames that the fine network sees, per class.")}

    def __init__(self, config, task):
        super().__init__(config, task)
        s, (coarse, fine) = self.settings, frame_networks.pair(config, task)
        self.model = Network(fine, coarse, TwoCells(task.num_outputs, s.large, s.small, s.width),
                             config.model.glance.resolution)
        side = self.resolution or config.data.test_crop_size
        self.clip_shape = (config.data.num_frames, side, side, 3)
        every, fine = self.costs()
        self.full_gmacs = every + config.data.num_frames * fine

    @classmethod
    def inference(cls, config, task):
        """Nothing to start from is loaded."""
        return cls(frame_networks.without_starts(config), task)

    def costs(self, convention: str = "macs") -> tuple[float, float]:
        """GMACs of what every frame of a clip needs together, and of what a used frame needs besides."""
        clip, frame = (1, *self.clip_shape), (1, 1, *self.clip_shape[1:])
        whole, fine = (part_gmacs(self.model, self.clip_shape, method, shape, convention=convention)
                       for method, shape in (("__call__", clip), ("look", frame)))
        return whole - self.clip_shape[0] * fine, fine

    def init(self, rng, clip_shape):
        """See `Method.init`."""
        params, stats = building.init_backbone(self.model, rng, clip_shape)
        params, stats = frame_networks.started(params, stats, ("coarse", "fine"), self.settings.starts)
        return base.Variables(params, schedule.begin(stats))

    # ------------------------------------------------------------------------------------- training
    def loss(self, params, variables, batch, rng):
        """See `Method.loss`; L of the module docstring."""
        s, clips, mask = self.settings, self._clips(batch), batch["mask"]
        drop, draw = jax.random.split(rng)
        trained = schedule.network(variables.replace(params=params))

        def finish(value, updated, scalars, logits):
            stats = schedule.after(updated["batch_stats"], variables)
            return value, (stats, {"loss": value, **scalars, **self.task.batch_scalars(logits, batch)})

        if s.objective == "networks":
            found, updated = self.model.apply(trained, clips, True, method="alone", rngs={"dropout": drop},
                                              mutable=["batch_stats"])
            parts = {f"loss_{name}": weighted_mean(self.task.loss(x.mean(axis=1), batch), mask)
                     for name, x in zip(("fine", "coarse"), found)}
            return finish(sum(parts.values()), updated, parts, found[0].mean(axis=1))
        step = schedule.made(variables)
        step = step % s.restart_steps if s.restart_steps else step
        tau = jnp.maximum(s.tau_least, choice.falling(s.tau, s.tau_decay, 1, step))
        weight = s.budget_weight - jnp.exp(-step / s.budget_steps)
        noise = choice.gumbel(draw, (*clips.shape[:2], 2), s.noise_scale)
        (logits, found), updated = self.model.apply(trained, clips, train=True, tau=tau, noise_BTA=noise,
                                                    rngs={"dropout": drop}, mutable=["batch_stats"])
        skipped_B = found["actions"][..., SKIP].mean(axis=1)
        ce = weighted_mean(self.task.loss(logits, batch), mask)
        budget = weight * losses.share_target(skipped_B, s.skip_target, mask)
        return finish(ce + budget, updated, {
            "loss_cls": ce, "loss_budget": budget, "tau": tau,
            "skipped": weighted_mean(jax.lax.stop_gradient(skipped_B), mask)}, logits)

    # ------------------------------------------------------------------------------------ inference
    def predict(self, variables, batch):
        """See `Method.predict`."""
        def look(clips):
            logits, found = self.model.apply(schedule.network(variables), clips)
            return logits, found["actions"]

        return self._prediction(batch["video"].shape[:2], *base.over_views(
            look, batch["video"], self.sight, self.views_per_pass))

    def _prediction(self, shape, logits, taken_NTA):
        """`Prediction` of B videos with V views, from what their clips say and did."""
        (b, v), (every, fine) = shape, self.costs()
        shares_BVA = taken_NTA.astype(jnp.float32).mean(axis=1).reshape(b, v, 2)
        used_BV = shares_BVA[..., USE] * taken_NTA.shape[1]
        logits, gmacs_BV = logits.astype(jnp.float32).reshape(b, v, -1), every + fine * used_BV
        extra = {"actions": taken_NTA.argmax(axis=-1).astype(jnp.int8).reshape(b, v, -1),
                 "usage": shares_BVA.mean(axis=1), "seen": jnp.full((b,), v * taken_NTA.shape[1]),
                 "clip_gmacs": gmacs_BV}
        return base.Prediction(self.task.mean_of_views(logits), gmacs_BV.sum(axis=1),
                               extra | base.clip_answers(self.task, logits))

    def runners(self):
        """Everything computed and masked, or the fine network on the frames that ask for it."""
        return {"dense": base.Runner(predict=self.predict), "routed": base.Runner(routed=self.routed)}

    @property
    def runner(self):
        """`config.method.form`."""
        return self.settings.form

    def routed(self, variables, batch):
        """`predict`, frame by frame, with the fine network where it is asked for; not to be traced."""
        video, (begin, ask, advance, end) = jnp.asarray(batch["video"]), self._programs
        clips = video.reshape(-1, *video.shape[2:])
        b_BTC, coarse = begin(variables, clips)
        n, t, taken = *clips.shape[:2], []
        state = tuple(jnp.zeros((n, self.settings.large), b_BTC.dtype) for _ in range(2))
        for i in range(t):
            action = ask(variables, state, b_BTC[:, i])
            a = self._router(n).run(variables, clips[:, i], np.asarray(action.argmax(axis=-1)),
                                    jnp.zeros((n, self.settings.width), b_BTC.dtype))
            state = advance(variables, state, action, a, b_BTC[:, i], [x[:, i] for x in coarse])
            taken.append(action)
        return end(variables, state[0], jnp.stack(taken, axis=1), video.shape[:2])

    @functools.cached_property
    def _programs(self):
        """Before the first frame; what is asked at one; the state after it; the answer."""
        call = self.model.apply

        def begin(variables, clips):
            return call(schedule.network(variables), self.sight(clips), method="begin")

        def ask(variables, *rest):
            return call(schedule.network(variables), "asked", *rest, method="cell")

        def advance(variables, *rest):
            return call(schedule.network(variables), "advance", *rest, method="cell")

        def end(variables, h, taken, shape):
            logits = call(schedule.network(variables), "classify", h, method="cell")
            return self._prediction(shape, logits, taken)

        return (*map(jax.jit, (begin, ask, advance)), jax.jit(end, static_argnums=3))

    @functools.cache  # noqa: B019 - a method lives as long as its run
    def _router(self, rows: int) -> Router:
        def look(variables, frames):
            found = self.model.apply(schedule.network(variables), self.sight(frames[:, None]), method="look")
            return found[:, 0]

        return Router([look, None], rows)

    def analyse(self, rows, variables, workdir, split):
        """How often the fine network was asked."""
        found = actions.analyse(rows, ("fine", "skipped"), self.task, workdir, split)
        return {name: x for name, x in found.items() if name != "blind"}
