"""AdaFocus V2: a glance at every frame says where a larger network looks closely.

Wang et al., "AdaFocus V2: End-to-End Training of Spatial Dynamic Networks for Video Recognition", CVPR 2022,
arXiv 2112.14238; as its released code computes (LeapLabTHU/AdaFocusV2, commit e97987c).

    glance     e_t, g_t = map of a small network on the whole frame, and its mean
    policy     a_t = (y, x) in (0, 1)^2 of sg(e_1 .. e_t), `policies/conv_heads.py`
    crop       P x P pixels at a_t (side - P), bilinear, with a gradient to a_t, `policies/crop.py`
    focus      l_t = mean map of a larger network on the crop
    head       running maximum over frames of an MLP of (g_t, l_t), a classifier each, `exits/running_max.py`

    L = 1/2 sum over {crops of the policy, crops anywhere} of
        mean_t CE(head after t frames) + mean_t CE(glance of frame t) + mean_t CE(focus on frame t)

The policy learns through the crop alone; crops anywhere keep the focus network from knowing one place only.
Frames are seen from coarse to fine, the policy is a forward recurrence: with `early_exit` (the paper's "+")
videos really stop after some frames, and later ones are never read. The paper's cost is the same sum.

Released slips that are kept, so that published weights mean what they meant: a glance at fewer pixels is
resized with aligned corners (`align_corners`), and confidence is the largest raw logit (`rule`).
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from data_pipelines import Field
from effvid_jax.exits import executor, routes
from effvid_jax.exits.running_max import RunningMaxHead
from effvid_jax.methods import exiting, looking
from effvid_jax.methods.clips import resize
from effvid_jax.policies.conv_heads import PlaceOverTime
from effvid_jax.policies.crop import crop, resize_aligned


class AdaFocusV2Net(nn.Module):
    """See the module docstring; the sub-trees of its parameters are glance, policy, focus and head.

    Attributes:
        glance, focus: 2-D networks.
        num_classes: K.
        order: of frames, as they are seen.
        patch: P, pixels.
        hidden: H of the policy.
        width: of the head.
        glance_side: that frames are shrunk to; 0: as they are.
        align_corners: how.
        dropout: before the head's classifiers.
        bn_groups, dtype: see `blocks.BatchNorm`, `blocks.Conv`.
    """

    glance: nn.Module
    focus: nn.Module
    num_classes: int
    order: tuple[int, ...]
    patch: int
    hidden: int = 2048
    width: int = 4096
    glance_side: int = 0
    align_corners: bool = True
    dropout: float = 0.0
    bn_groups: int = 1
    dtype: Any = None

    def setup(self):
        common = dict(bn_groups=self.bn_groups, dtype=self.dtype)
        self.policy = PlaceOverTime(2, self.hidden, **common)
        self.head = RunningMaxHead(self.num_classes, len(self.order), self.width, self.dropout, **common)

    def __call__(self, x_BTHWC, train: bool = False, others=()):
        """All frames.

        Args:
            x_BTHWC: normalised clip, frames in natural order.
            train: batch statistics and dropout on.
            others: further places (B, T, 2) to crop at beside those of the policy, frames as in `order`.

        Returns:
            Logits (B, K) of the last frame, and a dict: 'checkpoints' (B, T, K) after each frame, 'actions'
            (B, T, 2), 'patches' (B, T, P, P, 3), 'global_map', 'global_logits', 'local_logits' (B, T, K), all
            frames as in `order`; 'pooled' (B, T, C), what the head reads; 'branches', a list of such dicts
            with 'checkpoints' and 'local_logits', the policy's first and one for each of `others`.
        """
        x = x_BTHWC[:, jnp.array(self.order)]
        maps, seen = self.look(x, train)
        actions, _ = self.policy(jax.lax.stop_gradient(maps), train=train)
        branches = [self._branch(x, seen, places, train) for places in (actions, *others)]
        out = {"actions": actions, "global_map": maps, "branches": branches, **branches[0],
               "global_logits": looking.classify(self.glance, seen, train)}
        return out["checkpoints"][:, -1], out

    def _branch(self, x, seen, places, train):
        patches, close = self.look_closely(x, places, train)
        pooled = jnp.concatenate([seen, close], axis=-1)
        return {"patches": patches, "local_logits": looking.classify(self.focus, close, train),
                "checkpoints": self.head(pooled, train=train)[0], "pooled": pooled}

    def look(self, x_BTHWC, train: bool = False):
        """The glance at whole frames, see `looking.see`."""
        shrunk = x_BTHWC
        if self.glance_side:
            shrunk = (resize_aligned if self.align_corners else resize)(x_BTHWC, self.glance_side)
        return looking.see(self.glance, shrunk, train)

    def look_closely(self, x_BTHWC, places_BT2, train: bool = False):
        """(patches (B, T, P, P, 3), what the focus network sees of them (B, T, C))."""
        b, t, side = x_BTHWC.shape[:3]
        flat = x_BTHWC.reshape(b * t, *x_BTHWC.shape[2:])
        corners = places_BT2.reshape(-1, 2) * (side - self.patch)
        patches = crop(flat, corners, self.patch, self.patch).reshape(b, t, self.patch, self.patch, -1)
        return patches, looking.see(self.focus, patches, train)[1]

    def go_on(self, state, x_BTHWC, place: int):
        """The frames up to number `place` after those of `state` ({} at first) -> (state, logits (B, K))."""
        maps, seen = self.look(x_BTHWC)
        actions, hidden = self.policy(maps, state.get("hidden"))
        close = self.look_closely(x_BTHWC, actions)[1]
        phi = self.head.lifted(jnp.concatenate([seen, close], axis=-1))
        merged = self.head.merged(phi, state.get("merged"))
        return {"hidden": hidden, "merged": merged}, self.head.classify(place - 1, merged)


class AdaFocusV2(looking.Looking):
    """The method of a config; reads `config.model`, its `glance`, `config.method` and the size of clips.

    Raises:
        UserError: networks, patch, order or places to stop that do not fit.
    """

    @dataclasses.dataclass(frozen=True)
    class Settings(looking.LookingSettings):
        """Defaults are the released settings."""

        training_only: ClassVar = (*looking.LookingSettings.training_only, "random_branch")

        policy_width: int = 2048  # H, of the policy's recurrence
        order: tuple[int, ...] = ()  # of frames; (): from coarse to fine, see `exits/routes.py`
        align_corners: bool = True  # shrinking for the glance, as released; False: half-pixel
        random_branch: bool = True  # the loss of crops anywhere as well

        bounds: ClassVar = looking.LookingSettings.bounds | {
            "policy_width": Field.integer(1, 2**16), "order": Field.many(Field.integer(0, 256))}

    def __init__(self, config, task):
        super().__init__(config, task)
        settings, frames = self.settings, config.data.num_frames
        self.order = (routes.check_order(settings.order, frames) if settings.order else
                      routes.coarse_to_fine(frames))
        self.places = settings.places(1, frames)
        self._build(functools.partial(
            AdaFocusV2Net, num_classes=task.num_outputs, order=self.order, patch=settings.patch,
            hidden=settings.policy_width, width=settings.head_width,
            glance_side=config.model.glance.get("resolution", 0), align_corners=settings.align_corners))

    def loss(self, params, variables, batch, rng, places=None):
        """See `Method.loss`; L of the module docstring. `places` (B, T, 2): those of the crops anywhere."""
        drop_rng, place_rng = jax.random.split(rng)
        if places is None:
            places = jax.random.uniform(place_rng, (*batch["video"].shape[:2], 2))
        out, stats = self._run(params, variables, batch, drop_rng,
                               others=(places,) if self.settings.random_branch else ())
        value = self._mean_loss(out["global_logits"], batch)
        scalars = {"loss_glance": value}
        for name, branch in zip(("policy", "random"), out["branches"]):
            here = {"head": self._mean_loss(branch["checkpoints"], batch),
                    "focus": self._mean_loss(branch["local_logits"], batch)}
            value = value + sum(here.values()) / len(out["branches"])
            scalars |= {f"loss_{part}_{name}": x for part, x in here.items()}
        scalars |= {"loss": value, **self.task.batch_scalars(out["checkpoints"][:, -1], batch)}
        return value, (stats, scalars)

    # ------------------------------------------------------------------------------------ inference
    def checkpoints(self, variables, clips):
        """See `Exiting.checkpoints`; 'crops' (N, T, 4): y, x, height, width as shares of the frame."""
        _, out = self.model.apply(exiting.network(variables), clips)
        share = self.settings.patch / clips.shape[2]
        back = jnp.argsort(jnp.array(self.order))
        corners = out["actions"][:, back] * (1 - share)
        return {"checkpoints": out["checkpoints"][:, jnp.array(self.places) - 1],
                "crops": jnp.concatenate([corners, jnp.full_like(corners, share)], axis=-1)}

    def steps(self):
        """See `Stops.steps`."""
        return [executor.Step(functools.partial(self._go_on, stop), start, stop)
                for start, stop in zip((0, *self.places), self.places)]

    def _go_on(self, place, variables, state, frames):
        return self.model.apply(exiting.network(variables), state, self.sight(frames), place, method="go_on")

    def full(self, variables, clips):
        """See `Stops.full`."""
        clips = self.sight(clips)[:, jnp.array(self.order)]
        state = exiting.network(variables)
        return self.model.apply(state, {}, clips, len(self.order), method="go_on")[1]
