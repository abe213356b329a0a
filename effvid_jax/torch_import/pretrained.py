"""Published weights of a backbone, from the package that installs them: `effvid_jax.pretrained`."""

from __future__ import annotations

from typing import Any

from effvid_jax import published
from effvid_jax.backbones import make_backbone
from effvid_jax.errors import UserError
from effvid_jax.torch_import.conversion import convert, count_classes, template_of
from effvid_jax.torch_import.loading import load_torch_state
from effvid_jax.torch_import.naming import CLASSIFIER


def pretrained(name: str, num_classes: int = 0, **options) -> dict[str, Any]:
    """The published weights of a backbone as its variables; needs no PyTorch and downloads nothing.

        model = make_backbone("efficientnet_lite0", num_classes=1000)
        logits_BK, features = model.apply(effvid_jax.pretrained("efficientnet_lite0"), clip_BTHWC)

    Clips are float32 (B, T, H, W, 3), RGB, normalised as `facts(name).pixels` says, of any side.

    Args:
        name: of a backbone with a package: efficientnet_lite0, tsm_efficientnet_lite0 and others.
        num_classes: K of a new classifier, with initial values; 0: the published one (ImageNet's 1000).
        **options: further fields of the backbone, see `make_backbone`.

    Returns:
        `{'params': ..., 'batch_stats': ...}`, float32 arrays.

    Raises:
        UserError: a backbone without such weights, a package that is not installed, options that make another
            network of it (all that does not fit is listed).
    """
    field = f"pretrained({name!r})"
    state = load_torch_state(published.weights_file(published.package_of(name, field), field))
    skip = (f"{CLASSIFIER}/.*",) if num_classes else ()
    classes = num_classes or count_classes(state)
    if classes is None:
        raise UserError(f"{field}: its file has no classifier: give num_classes.")
    options = {key: tuple(value) if isinstance(value, (list, tuple)) else value
               for key, value in options.items()}
    model = make_backbone(name, num_classes=classes, **options)
    return convert(name, state, template_of(model, skip=skip), skip=skip)
