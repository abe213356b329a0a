"""The PyTorch side of the benchmarks: the same networks, by the names of `effvid_jax.backbones`.

    step = torch_networks.Inference(torch_networks.make("tsm_resnet50", frames=8), clips, torch.bfloat16)

torchvision's networks where it has them; TSN, TSM (arXiv 1811.08383) and SlowOnly (arXiv 1812.03982) are made
of them, others are in `torch_own.py`. All read uint8 clips (B,T,H,W,3), normalise them on
the device as ours do, and give logits (B,K). PyTorch and torchvision are requirements of this file alone.
Weights are those of the constructors: random.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from benchmarks import torch_own
from effvid_jax.backbones.facts import IMAGENET

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


# ---------------------------------------------------------------------------------------- networks
class Recognizer(nn.Module):
    """Clips to logits.

    Attributes:
        features: map of a clip: (B*T,C,H,W) for networks of single frames, else (B,C,T,H,W).
        head: what comes after the map.
        frames: T for networks of single frames, which are averaged; else 0.
        early: average frames before the classifier (TSN) rather than their logits (TSM).
        channels_last: how maps lie in memory; see `place`.
    """

    channels_last = True

    def __init__(self, features: nn.Module, head: nn.Module, frames: int = 0, early: bool = True):
        super().__init__()
        self.features, self.head, self.frames, self.early = features, head, frames, early
        for name, value in IMAGENET._asdict().items():
            self.register_buffer(name, torch.tensor(value), persistent=False)

    def normalise(self, clips):
        """uint8 (B,T,H,W,3) to what `features` reads, in the type of the buffers."""
        x = (clips.to(self.mean.dtype) - self.mean) / self.std
        x = x.flatten(0, 1).permute(0, 3, 1, 2) if self.frames else x.permute(0, 4, 1, 2, 3)
        return x if self.channels_last else x.contiguous()

    def classify(self, maps):
        """The map of a clip to its logits."""
        if not self.frames:
            return self.head(maps)
        if isinstance(maps, list):  # of every exit; the last one answers
            return [self.head[k](m).unflatten(0, (-1, self.frames)).mean(1) for k, m in enumerate(maps)][-1]
        pooled = maps.mean((2, 3)).unflatten(0, (-1, self.frames))
        return self.head(pooled.mean(1)) if self.early else self.head(pooled).mean(1)

    def forward(self, clips):
        return self.classify(self.features(self.normalise(clips)))


class ReskdLoss(nn.Module):
    """Loss of a ResKD step: cross-entropy + 100 x squared error of the maps; see `methods/reskd.py`.

    The teacher stays in training mode (statistics of the batch), as the released code executes it.
    """

    def __init__(self, student: Recognizer, teacher: Recognizer, resolution: int):
        super().__init__()
        self.student, self.teacher, self.resolution = student, teacher.requires_grad_(False), resolution

    def forward(self, clips, labels):
        x = self.student.normalise(clips)
        with torch.no_grad():
            wanted = self.teacher.features(x)
        maps = self.student.features(_resize(x, self.resolution))
        distance = (_resize(maps, wanted.shape[-1]).float() - wanted.float()).square().mean()
        return F.cross_entropy(self.student.classify(maps).float(), labels) + 100 * distance


class SupervisedLoss(nn.Module):
    """Cross-entropy."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, clips, labels):
        return F.cross_entropy(self.model(clips).float(), labels)


class Shift(nn.Module):
    """TSM: an eighth of the channels comes from the next frame, an eighth from the one before."""

    def __init__(self, frames: int):
        super().__init__()
        self.frames = frames

    def forward(self, x):
        x = x.unflatten(0, (-1, self.frames))
        n, out = x.shape[2] // 8, torch.zeros_like(x)
        out[:, :-1, :n] = x[:, 1:, :n]
        out[:, 1:, n:2 * n] = x[:, :-1, n:2 * n]
        out[:, :, 2 * n:] = x[:, :, 2 * n:]
        return out.flatten(0, 1)


def make(name: str, frames: int, classes: int = 400) -> Recognizer:
    """A network by the name of ours.

    Args:
        name: of a backbone.
        frames: T of the clips.
        classes: K.

    Raises:
        ValueError: no such network here.
    """
    if name.startswith(("resnet", "tsm_resnet")):
        net = getattr(torchvision.models, name.removeprefix("tsm_"))(num_classes=classes)
        if name.startswith("tsm_"):
            for block in [b for stage in (net.layer1, net.layer2, net.layer3, net.layer4) for b in stage]:
                block.conv1 = nn.Sequential(Shift(frames), block.conv1)
        return Recognizer(_body(net), net.fc, frames, early=not name.startswith("tsm_"))
    if name == "mobilenet_v2":
        net = torchvision.models.mobilenet_v2(num_classes=classes, dropout=0.0)
        return Recognizer(net.features, net.classifier, frames)
    if name == "slowonly_resnet50":
        net = torchvision.models.resnet50(num_classes=classes)
        head = nn.Sequential(nn.AdaptiveAvgPool3d(1), nn.Flatten(), net.fc)
        return Recognizer(_inflate(_body(net)), head)
    if name in torch_own.NETWORKS:
        features, head = torch_own.NETWORKS[name](classes)
        return Recognizer(features, head, frames if name.startswith("msdnet") else 0, early=False)
    if not hasattr(torchvision.models.video, name):
        raise ValueError(f"torch_networks has no {name!r}.")
    options = {"dropout": 0.0} if name in ("s3d", "mvit_v2_s", "swin3d_t") else {}
    return Recognizer(getattr(torchvision.models.video, name)(num_classes=classes, **options), nn.Identity())


def _body(net) -> nn.Sequential:
    """A torchvision ResNet up to its last map."""
    return nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool,
                         net.layer1, net.layer2, net.layer3, net.layer4)


def _inflate(body: nn.Sequential) -> nn.Sequential:
    """A 2-D ResNet as SlowOnly: the first 1x1 of every block of the last two stages sees three frames."""
    for path, module in list(body.named_modules()):
        if isinstance(module, nn.Conv2d):
            time = 3 if path.startswith(("6.", "7.")) and path.endswith("conv1") else 1
            new = nn.Conv3d(module.in_channels, module.out_channels, (time, *module.kernel_size),
                            (1, *module.stride), (time // 2, *module.padding), bias=False)
        elif isinstance(module, nn.BatchNorm2d):
            new = nn.BatchNorm3d(module.num_features)
        elif isinstance(module, nn.MaxPool2d):
            new = nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1))
        else:
            continue
        parent, _, last = path.rpartition(".")
        setattr(body.get_submodule(parent), last, new)
    return body


def _resize(x, size: int):
    return F.interpolate(x, size=(size, size), mode="bilinear", align_corners=False)


# ------------------------------------------------------------------------------------------- steps
class Pending:
    """A result that may still be computing; `jax.block_until_ready`, so `timing.measure`, waits for it."""

    def __init__(self, value):
        self.value = value

    def block_until_ready(self):
        """Waits for the device."""
        synchronize()
        return self


def synchronize() -> None:
    """Waits until the GPU is idle."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def peak_bytes(function: Callable[[], Any]) -> int:
    """Most bytes of tensors that were alive during a call; 0 on a CPU, where PyTorch does not count."""
    if DEVICE != "cuda":
        return 0
    synchronize()
    torch.cuda.reset_peak_memory_stats()
    function()
    synchronize()
    return torch.cuda.max_memory_allocated()


def free() -> None:
    """Gives cached memory back and forgets compiled code."""
    torch._dynamo.reset()
    if DEVICE == "cuda":
        torch.cuda.empty_cache()


def prepare() -> None:
    """Settings of a process in earnest: cuDNN chooses by trial, float32 products may use TF32."""
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high")


def place(model: nn.Module, dtype=torch.float32, channels_last: bool = True) -> nn.Module:
    """The model on the device; kernels of convolutions lie channels-last, or as PyTorch makes them."""
    model = model.to(DEVICE, dtype)
    model.channels_last = channels_last
    if channels_last:
        for module in model.modules():
            for conv, layout in ((nn.Conv2d, torch.channels_last), (nn.Conv3d, torch.channels_last_3d)):
                if isinstance(module, conv):
                    module.to(memory_format=layout)
    return model


def _in_form(module: nn.Module, form: str):
    """The module as one of `gpu_rows.FORMS`; graphs are kernels recorded once and launched together."""
    if form == "eager":
        return module
    return torch.compile(module, mode="reduce-overhead" if form == "graphs" else "default")


class Inference:
    """A model on a batch on the device: for `timing.measure`.

    Args:
        model: from `make`, placed.
        clips: uint8 numpy array (B,T,H,W,3).
        form: one of `gpu_rows.FORMS`.
    """

    def __init__(self, model: nn.Module, clips, form: str = "eager"):
        self.model = model.eval()
        self.run = _in_form(self.model, form)
        self.clips = torch.from_numpy(clips).to(DEVICE)

    def __call__(self) -> Pending:
        torch.compiler.cudagraph_mark_step_begin()
        with torch.inference_mode():
            return Pending(self.run(self.clips))


class TrainStep:
    """SGD steps with momentum on one batch under autocast: for `timing.measure`.

    Args:
        loss: (clips, labels) -> loss, placed; its trained parameters are those that need a gradient.
        clips, labels: numpy arrays, uint8 (B,T,H,W,3) and integers (B,).
        clip_norm: largest norm of the gradient; 0: any.
        form: of the loss and its gradient, one of `gpu_rows.FORMS`.
    """

    def __init__(self, loss: nn.Module, clips, labels, clip_norm: float = 0.0, form: str = "eager"):
        self.loss, self.clip_norm = loss.train(), clip_norm
        self.run = _in_form(self.loss, form)
        self.clips, self.labels = (torch.from_numpy(x).to(DEVICE) for x in (clips, labels))
        self.weights = [p for p in loss.parameters() if p.requires_grad]
        self.optimizer = torch.optim.SGD(self.weights, 0.01, momentum=0.9, weight_decay=1e-4,
                                         fused=DEVICE == "cuda")

    def __call__(self) -> Pending:
        torch.compiler.cudagraph_mark_step_begin()
        self.optimizer.zero_grad(set_to_none=True)
        half = torch.autocast(DEVICE, torch.bfloat16) if DEVICE == "cuda" else contextlib.nullcontext()
        with half:
            loss = self.run(self.clips, self.labels)
        loss.backward()
        if self.clip_norm:
            torch.nn.utils.clip_grad_norm_(self.weights, self.clip_norm)
        self.optimizer.step()
        return Pending(loss.detach())
