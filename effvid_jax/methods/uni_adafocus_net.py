"""The network of Uni-AdaFocus; what it is, and its training, are in `uni_adafocus.py`."""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from effvid_jax.backbones import blocks
from effvid_jax.exits.running_max import RunningMaxHead
from effvid_jax.methods import looking
from effvid_jax.methods.clips import resize
from effvid_jax.policies.conv_heads import PlaceAlongClip, WeightsAlongClip, between_frames
from effvid_jax.policies.crop import crop
from effvid_jax.policies.focus_frames import expected_answer, quantile_frames


class UniAdaFocusNet(nn.Module):
    """Sub-trees of its parameters: glance, when, where, aux, focus, head_glance, head_focus.

    Attributes:
        glance, focus: 2-D networks.
        num_classes: K.
        candidates, glanced, focused: S, G and F.
        patch, least: P and the shortest side of a crop, pixels.
        hidden, hidden_when: channels of the policies.
        temperature: of the weights that frames are chosen by.
        width: of each half of the head.
        glance_side: that frames are shrunk to for the glance; 0: as they are.
        dropout: before the head's classifiers.
        bn_groups, dtype: see `blocks.BatchNorm`, `blocks.Conv`.
    """

    glance: nn.Module
    focus: nn.Module
    num_classes: int
    candidates: int
    glanced: int
    focused: int
    patch: int
    least: int
    hidden: int = 128
    hidden_when: int = 64
    temperature: float = 1.0
    width: int = 4096
    glance_side: int = 0
    dropout: float = 0.0
    bn_groups: int = 1
    dtype: Any = None

    def setup(self):
        common = dict(bn_groups=self.bn_groups, dtype=self.dtype)
        head = functools.partial(RunningMaxHead, self.num_classes, width=self.width, dropout=self.dropout,
                                 **common)
        self.where = PlaceAlongClip(4, self.hidden, **common)
        self.when = WeightsAlongClip(self.hidden_when, self.temperature, **common)
        self.aux = blocks.Dense(self.num_classes, dtype=self.dtype)
        self.head_glance, self.head_focus = head(self.glanced), head(self.focused)

    def __call__(self, x_BSHWC, train: bool = False, rng=None):
        """All candidates.

        Args:
            x_BSHWC: normalised candidates in natural order.
            train: batch statistics and dropout on, and with `rng` drawn frames and crops.
            rng: None: frames and crops as in evaluation, and no crops anywhere.

        Returns:
            Logits (B, K) after all crops, and a dict: 'checkpoints' (B, G + F, K), 'weights' (B, G),
            'actions' (B, G, 4), 'focus_frames' (B, F), 'focus_actions' (B, F, 4), 'patches' (B, F, P, P, 3),
            'global_logits' (B, G, K), 'local_logits' (B, F, K), 'expected_logits' and 'aux_logits' (B, K),
            'pooled' (B, G, C); 'branches', a list of dicts with 'checkpoints' and 'local_logits'.
        """
        b, s = x_BSHWC.shape[:2]
        keys = [None] * 4 if rng is None else jax.random.split(rng, 4)
        glances = jnp.broadcast_to(jnp.arange(1, s, s // self.glanced)[:self.glanced], (b, self.glanced))
        if rng is not None:  # one of each part
            part = s // self.glanced
            glances = jnp.arange(self.glanced) * part + jax.random.randint(keys[0], glances.shape, 0, part)
        maps, seen = self.look(_frames(x_BSHWC, glances), train)
        global_logits = looking.classify(self.glance, seen, train)
        where, when, chosen = self.decide(maps, seen, keys[1], train)
        places = jnp.take_along_axis(where[1], chosen[..., None], axis=1)
        others = []
        if rng is not None:
            anywhere = jax.random.uniform(keys[2], (*places.shape[:2], 2))
            size = (self.patch - self.least) / (x_BSHWC.shape[2] - self.least)
            others = [jnp.concatenate([anywhere, jnp.full_like(anywhere, size)], axis=-1)]
        # Crops of both kinds share batch statistics in the focus network, those of a clip side by side.
        crops = jnp.stack([self.cut(_frames(x_BSHWC, chosen), p) for p in (places, *others)], axis=1)
        close = looking.see(self.focus, crops.reshape(-1, *crops.shape[2:]), train)[1]
        local_logits = looking.classify(self.focus, close, train)
        branches = []
        for i in range(1 + len(others)):
            here = close.reshape(b, -1, *close.shape[1:])[:, i]
            first, z = self.head_glance(seen, train=train)
            branches.append({
                "checkpoints": jnp.concatenate([first, self.head_focus(here, z, train)[0]], axis=1),
                "local_logits": local_logits.reshape(b, -1, *local_logits.shape[1:])[:, i]})
        out = {"weights": when, "actions": where[0], "focus_frames": chosen, "focus_actions": places,
               "patches": crops[:, 0], "global_logits": global_logits, "pooled": seen, "branches": branches,
               "expected_logits": expected_answer(keys[3], when, global_logits, max(1, self.glanced // 3))
               if rng is not None or self.glanced < 6 else None,
               "aux_logits": self.aux(self._read_map(maps, where[0], x_BSHWC.shape[2])), **branches[0]}
        return out["checkpoints"][:, -1], out

    def look(self, x_BTHWC, train: bool = False):
        """The glance at whole frames, see `looking.see`."""
        return looking.see(self.glance, resize(x_BTHWC, self.glance_side), train)

    def decide(self, maps, seen, rng=None, train: bool = False):
        """((places (B, G, 4), those of all candidates (B, S, 4)), weights (B, G), frames (B, F))."""
        places = self.where(jax.lax.stop_gradient(maps), train)
        weights, sharpened = self.when(seen, train)
        chosen = quantile_frames(sharpened, self.candidates, self.focused, rng)
        every = between_frames(jax.lax.stop_gradient(places), self.candidates)
        return (places, every), weights, chosen

    def cut(self, x_BTHWC, places_BT4):
        """Crops (B, T, P, P, 3) of frames."""
        return self._crop(x_BTHWC, places_BT4, self.patch, 1.0)

    def _crop(self, x_BTHWC, places_BT4, size: int, scale: float):
        """Crops of maps that are `scale` times smaller than the frames."""
        b, t, side = x_BTHWC.shape[:3]
        places = places_BT4.reshape(-1, 4)
        sides = self.least / scale + places[:, 2:] * (side - self.least / scale)
        found = crop(x_BTHWC.reshape(b * t, *x_BTHWC.shape[2:]), places[:, :2] * (side - sides), sides, size)
        return found.reshape(b, t, *found.shape[1:])

    def _read_map(self, maps, places, side: int):
        """Mean (B, C) of the glance's maps at the places of crops."""
        maps, scale = jax.lax.stop_gradient(maps), side / maps.shape[2]
        return self._crop(maps, places, max(1, int(self.patch / scale)), scale).mean(axis=(1, 2, 3))

    # -------------------------------------------------------------------------------------- in segments
    def begin(self, x_BGHWC):
        """The glance -> (what is known then, logits (B, K))."""
        maps, seen = self.look(x_BGHWC)
        z = self.head_glance.merged(self.head_glance.lifted(seen))
        return {"maps": maps, "seen": seen, "glance": z}, self.head_glance.classify(self.glanced - 1, z)

    def choose(self, known, x_BSHWC):
        """All candidates in natural order, after `begin` -> crops to look at (B, F, P, P, 3)."""
        (_, every), _, chosen = self.decide(known["maps"], known["seen"])
        return self.cut(_frames(x_BSHWC, chosen), jnp.take_along_axis(every, chosen[..., None], axis=1))

    def go_on(self, glance_BC, before_BC, crops, place: int):
        """Some more crops, up to number `place` -> (running maximum, logits (B, K))."""
        z = self.head_focus.merged(self.head_focus.lifted(looking.see(self.focus, crops)[1]), before_BC)
        return z, self.head_focus.classify(place - 1, z, glance_BC)


def _frames(x_BSHWC, chosen_BT):
    return jnp.take_along_axis(x_BSHWC, chosen_BT[:, :, None, None, None], axis=1)
