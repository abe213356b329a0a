"""Per frame and channel of a residual block: nothing, the frame before's value, or a new one.

    v_t = [mean x_(t-1), mean x_t]     of the block's input; zeros before the first frame
    a_tc in {skip, reuse, keep}        straight-through choice of W2 relu(BN(W1 v_t))
    y'_t = keep_t y_t + reuse_t y_(t-1)     y: the block's first convolution with norm and ReLU

y_(t-1) is the frame before as it was computed, whatever its own actions were; zero before the first.
"""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax.numpy as jnp

from effvid_jax.backbones import blocks, resnet
from effvid_jax.policies import choice

SKIP, REUSE, KEEP = 0, 1, 2
FOUND = "fusion"  # the collection of actions (B, T, C, 3)


def frame_before(x_BT):
    """Every frame's predecessor, zeros before the first: (B, T, ...) -> (B, T, ...)."""
    return jnp.concatenate([jnp.zeros_like(x_BT[:, :1]), x_BT[:, :-1]], axis=1)


def fuse(y_BTHWC, actions_BTC3):
    """y' of the module docstring."""
    a = actions_BTC3[:, :, None, None].astype(y_BTHWC.dtype)
    return a[..., KEEP] * y_BTHWC + a[..., REUSE] * frame_before(y_BTHWC)


def computed(actions_BTC3, slip: bool = False):
    """Shares of the channels of two convolutions that must be computed, (B, T) each.

    Args:
        actions_BTC3: see the module docstring.
        slip: the released count, which takes the last frame but one for the last (its loop variable is read
            after the loop).

    Returns:
        Of the first convolution those that this frame keeps or the next one reuses; of the second one, as
        its inputs, those that are not skipped.
    """
    keep, reuse = actions_BTC3[..., KEEP], actions_BTC3[..., REUSE]
    after = jnp.concatenate([reuse[:, 1:], jnp.zeros_like(reuse[:, :1])], axis=1)
    if slip and keep.shape[1] > 1:
        keep = jnp.concatenate([keep[:, :-1], keep[:, -2:-1]], axis=1)
    first = 1 - (1 - keep) * (1 - after)
    return first.mean(axis=-1), 1 - actions_BTC3[..., SKIP].mean(axis=-1)


class ChannelPolicy(nn.Module):
    """Actions (B, T, C, 3) of the input of a block; children `fc1`, `bn`, `fc2`.

    Attributes:
        channels: C.
        hidden: units between the linear layers.
        tau: temperature, see `choice.choose`.
        noise_at_test: actions are drawn in inference, too, by what the policy sees.
    """

    channels: int
    hidden: int = 1024
    tau: float = 0.67
    noise_at_test: bool = False

    @nn.compact
    def __call__(self, x_BTHWC, train: bool = False):
        g_BTC = blocks.global_avg_pool(x_BTHWC)
        v = jnp.concatenate([frame_before(g_BTC), g_BTC], axis=-1)
        hidden = blocks.relu(blocks.BatchNorm(name="bn")(blocks.Dense(self.hidden, name="fc1")(v), train))
        logits = blocks.Dense(3 * self.channels, name="fc2")(hidden)
        logits = logits.reshape(*v.shape[:2], self.channels, 3)
        rng = None
        if train and self.has_rng("choice"):
            rng = self.make_rng("choice")
        elif self.noise_at_test and not train:
            rng = choice.keys_of(v)
        actions = choice.choose(choice.log_probabilities(logits), self.tau,
                                choice.gumbel(rng, logits.shape))
        if not self.is_initializing():
            self.sow(FOUND, "actions", actions, reduce_fn=lambda old, new: new, init_fn=lambda: None)
        return actions


class FusedBottleneck(resnet.Bottleneck):
    """A bottleneck whose 3x3 convolution reads fused channels; child `policy`.

    Attributes:
        policy_fields: fields of `ChannelPolicy` but `channels`, as pairs.
    """

    policy_fields: tuple = ()

    def setup(self):
        super().setup()
        self.policy = ChannelPolicy(self.width, **dict(self.policy_fields))

    def __call__(self, x, train: bool = False):
        y = blocks.relu(self.bn1(self.conv1(self.shift_input(x), train), train))
        y = fuse(y, self.policy(x, train))
        y = blocks.relu(self.bn2(self.conv2(y, train), train))
        y = self.bn3(self.conv3(y, train), train)
        if self.project:
            x = self.downsample_bn(self.downsample_conv(x, train), train)
        return blocks.relu(x + y)


class FusedBasicBlock(resnet.BasicBlock):
    """A basic block whose second convolution reads fused channels; child `policy`.

    Attributes:
        policy_fields: see `FusedBottleneck`.
    """

    policy_fields: tuple = ()

    def setup(self):
        super().setup()
        self.policy = ChannelPolicy(self.width, **dict(self.policy_fields))

    def __call__(self, x, train: bool = False):
        y = blocks.relu(self.bn1(self.conv1(self.shift_input(x), train), train))
        y = self.bn2(self.conv2(fuse(y, self.policy(x, train)), train), train)
        if self.project:
            x = self.downsample_bn(self.downsample_conv(x, train), train)
        return blocks.relu(x + y)


class FusedResNet(resnet.ResNet):
    """A ResNet with fused channels in the blocks of some stages.

    Attributes:
        fused_stages: which stages, 1-based.
        policy_fields: see `FusedBottleneck`.
    """

    fused_stages: tuple[int, ...] = (1, 2, 3, 4)
    policy_fields: tuple = ()

    def make_block(self, stage, *fields):
        """See `ResNet.make_block`."""
        if stage not in self.fused_stages:
            return super().make_block(stage, *fields)
        kind = FusedBottleneck if self.bottleneck else FusedBasicBlock
        return kind(*fields, policy_fields=self.policy_fields)

    @property
    def fused_blocks(self) -> list[str]:
        """Module paths of the blocks with a policy, in the order of the network."""
        return [f"layer{s}_{b}" for s, size in enumerate(self.stage_sizes, start=1)
                if s in self.fused_stages for b in range(size)]


def fused(network: resnet.ResNet, stages: tuple[int, ...], **policy_fields) -> FusedResNet:
    """A ResNet's definition with fused channels.

    Args:
        network: the plain one.
        stages: see `FusedResNet`.
        **policy_fields: of `ChannelPolicy`.
    """
    fields = {field.name: getattr(network, field.name) for field in dataclasses.fields(network)
              if field.init and field.name not in ("parent", "name")}
    return FusedResNet(**fields, fused_stages=stages, policy_fields=tuple(sorted(policy_fields.items())))
