"""Exits of a network whose convolutions decide: what an answer cost is its own.

    cost of stopping at k = sum over segments up to k of (static cost - what gates left out + their overhead)

A gate decides about the frames that a segment gives it and never sees later ones, so the network runs segment
after segment in `predict` too, as it does in the executor: same answers, same costs. Training computes all of
it at once, with the same pieces of the clip before each gate (`effvid_jax/gating/surroundings.py`).
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from effvid_jax.cost.counting import traced
from effvid_jax.exits import record, routes, stopping
from effvid_jax.exits.network import run_segment
from effvid_jax.gating import decisions, gates, variants
from effvid_jax.methods import base
from effvid_jax.methods.early_exits import Exits
from effvid_jax.methods.stops import RECORD


class GatedExits(Exits):
    """See the module docstring; `method.gates` is the other part."""

    own_costs = True

    def bind(self, method):
        """See `Part.bind`."""
        super().bind(method)
        self.plan = routes.plan_segments(self.model.route, self.model.group)

    def with_record(self, stats):
        """See `Calibrated.with_record`; it has the costs of calibration videos, too."""
        stats = super().with_record(stats)
        begun = stats[RECORD]
        return {**stats, RECORD: {**begun, "gmacs": jnp.zeros(begun["hits"].shape)}}

    @functools.cached_property
    def limits(self) -> tuple[np.ndarray, np.ndarray]:
        """(m,) least and (m,) most GMACs of a view that stops at each checkpoint, whatever gates decide."""
        _, variables = traced(self.model, self.clip_shape)
        state, saved, added = {}, [], []
        for k, segment in enumerate(self.plan):
            new, found = (1, segment.frames - segment.first, *self.clip_shape[1:]), []
            run = functools.partial(run_segment, self.model, k=k, found=found)
            state, _ = jax.eval_shape(run, variables, state=state,
                                      frames_BTHWC=jax.ShapeDtypeStruct(new, jnp.float32))
            here = _decisions(found)
            saved.append(sum(d.macs * (1 - d.least) for d in here) / 1e9)
            added.append(sum(d.most for d in here) / 1e9)
        return self.costs - np.cumsum(saved), self.costs + np.cumsum(added)

    @property
    def least_costs(self):
        """See `Calibrated.least_costs`."""
        return self.limits[0]

    @property
    def span(self):
        """See `Calibrated.span`."""
        return float(self.limits[0][0]), float(self.limits[1][-1])

    def costs_of(self, kept):
        """See `Calibrated.costs_of`: (n, m), a row a calibration video."""
        return np.asarray(kept["gmacs"], np.float64)[:int(kept["count"])]

    def costs_of_rows(self, rows):
        """See `Stops.costs_of_rows`; of videos that really stopped, those of the ones that left there."""
        if "exit_gmacs" in rows:
            return rows["clip_gmacs"].shape[1], rows["exit_gmacs"].mean(axis=0, dtype=np.float64)
        left = [rows["gmacs"][rows["exit"] == k] for k in range(self.m)]
        return 1, np.array([x.mean(dtype=np.float64) if len(x) else static
                            for x, static in zip(left, self.costs, strict=True)])

    def recorded(self, rows):
        """See `Calibrated.recorded`; costs are of a view."""
        views = rows["clip_gmacs"].shape[1]
        gmacs = record.chosen(rows["exit_gmacs"] / views, self.settings.calibration_videos)
        return {**super().recorded(rows), "gmacs": gmacs}

    # ---------------------------------------------------------------------------------------- inference
    def predict(self, variables, batch):
        """See `Method.predict`.

        `extra` has what `Exits` and `Gates` tell; 'exit_gmacs' (B, m) is what stopping at each checkpoint
        would have cost, 'ratios' and 'computed' are of the whole network, wherever a video stops.
        """
        b, v = batch["video"].shape[:2]
        method = self.method
        found = base.over_views(lambda clips: self._whole(variables, clips), batch["video"], method.sight,
                                method.views_per_pass)
        found = {name: x.reshape(b, v, *x.shape[1:]) for name, x in found.items()}
        logits = self.task.mean_of_views(found.pop("logits").astype(jnp.float32))
        scores = self.scores(logits, found.pop("sure").mean(axis=1) if "sure" in found else None)
        taken = stopping.exits_taken(scores[..., self.rule], self.thresholds_of(variables))
        gmacs, plain = found.pop("gmacs"), found.pop("plain")

        def where_it_stops(x_BVm):
            return jnp.take_along_axis(x_BVm, taken[:, None, None], axis=2)[..., 0]

        told = {name: x.mean(axis=1) for name, x in found.items()}
        return base.Prediction(
            jnp.take_along_axis(logits, taken[:, None, None], axis=1)[:, 0],
            where_it_stops(gmacs).sum(axis=1),
            {"exit": taken, "stop_scores": scores, "answers": self.task.answers(logits),
             "exit_gmacs": gmacs.sum(axis=1), "clip_gmacs": where_it_stops(gmacs),
             "gmacs_plain_ops": where_it_stops(plain).sum(axis=1), **told})

    def _whole(self, variables, clips):
        """All segments of clips (N, T, side, side, 3): arrays (N, ...) by name."""
        if self._one_by_one and clips.shape[0] != 1:
            found = jax.lax.map(lambda clip: self._whole(variables, clip[None]), clips)
            return jax.tree.map(lambda x: x[:, 0], found)
        ordered = clips[:, jnp.array(self.model.order)]
        state, logits, gmacs, plain, looks, sure = {}, [], [], [], {}, []
        for k, segment in enumerate(self.plan):
            new = ordered[:, segment.first:segment.frames]
            state, here, saved, found = self._segment(k, variables, state, new)
            logits.append(here)
            gmacs.append(state["gmacs"])
            sure += [jax.nn.sigmoid(state["sure"])] if "sure" in state else []
            plain.append(saved + (plain[-1] if plain else 0))
            for path, decision in found:
                looks.setdefault(path, []).append(decision)
        every = [variants.together(looks[path]) for path in sorted(looks, key=gates.natural_order)]
        judged = {"sure": jnp.stack(sure, axis=1)} if sure else {}
        return {**judged, "logits": jnp.stack(logits, axis=1), "gmacs": jnp.stack(gmacs, axis=1),
                "plain": jnp.stack(plain, axis=1), "ratios": jnp.stack([d.ratio for d in every], axis=1),
                "computed": decisions.computed_share(every),
                "dead": jnp.stack([decisions.is_dead(d) for d in every], axis=1).astype(jnp.float32)}

    def _segment(self, k, variables, state, frames):
        """(state, logits, cost of this segment without overhead, [(path, decision)])."""
        found: list = []
        with self.method.tracing(self.method.shares(variables.stats)):
            after, logits = run_segment(self.model, self.method.network(variables), k, state, frames, found)
        static = self.costs[k] - (self.costs[k - 1] if k else 0)
        every = _decisions(found)
        plain, overhead = (jnp.zeros(logits.shape[:1]) + x for x in decisions.clip_gmacs(every, static))
        spent = state["gmacs"] if k else 0.0
        return ({**after, "gmacs": spent + plain + overhead}, logits, plain,
                [pair for one in found for pair in gates.collect(one).items()])

    def _run_segment(self, k, variables, state, frames):
        """A step of the executor."""
        if self._one_by_one and jax.tree.leaves((state, frames))[0].shape[0] != 1:
            found = jax.lax.map(lambda row: self._run_segment(k, variables, *jax.tree.map(
                lambda x: x[None], row)), (state, frames))
            return jax.tree.map(lambda x: x[:, 0], found)
        frames = None if frames is None else self.method.sight(frames)
        state, logits, *_ = self._segment(k, variables, state, frames)
        return state, logits

    @property
    def _one_by_one(self) -> bool:
        return self.method.gates.clip_by_clip

    @functools.cached_property
    def segments(self):
        """See `Stops.segments`: of the compact form, which computes what gates ask for, and no more."""
        compact = self.method.in_form("compact")
        return self.in_segments() if compact is self.method else compact.exits.segments

    def full(self, variables, clips):
        """See `Stops.full`."""
        def look(clips):
            with self.method.tracing(self.method.shares(variables.stats)):
                return super(GatedExits, self).full(variables, clips)

        if self._one_by_one and clips.shape[0] != 1:
            return jax.lax.map(lambda clip: look(clip[None])[0], clips)
        return look(clips)


def _decisions(found) -> list[variants.Decision]:
    """Those of several collections 'gates'."""
    return [decision for one in found for decision in gates.collect(one).values()]
