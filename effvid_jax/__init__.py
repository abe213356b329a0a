"""effvid_jax: efficient video recognition in JAX/Flax.

    model = effvid_jax.load("runs/demo")               # a workdir, or an exported folder
    model.predict("clip.mp4").top(5)                   # [("waving", 0.93), ...]
    network = effvid_jax.make_backbone("efficientnet_lite0", num_classes=1000)
    variables = effvid_jax.pretrained("efficientnet_lite0")  # its published weights
"""

from typing import TYPE_CHECKING

__version__ = "0.1.0"
__all__ = ["BACKBONES", "load", "make_backbone", "pretrained"]

if TYPE_CHECKING:
    from effvid_jax.backbones import BACKBONES, make_backbone
    from effvid_jax.model import load
    from effvid_jax.torch_import import pretrained


def __getattr__(name: str):
    """The names of `__all__`, imported when they are asked for: jax takes seconds."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "load":
        from effvid_jax.model import load

        return load
    if name == "pretrained":
        from effvid_jax.torch_import import pretrained

        return pretrained
    from effvid_jax import backbones

    return getattr(backbones, name)
