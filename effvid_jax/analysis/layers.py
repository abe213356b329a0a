"""Maps in the middle of a network, by name: of any backbone, without a line in it.

A layer is one call of a module that gives a map (B, T', h, w, C); its name is the module's path, as in
`python -m effvid_jax.cost` ('layer3_0/conv2'), with ':2' for a second call. The backbone's own names
('stage3', 'features') stand for the call that made the map. Flax interceptors look at the calls, and add to
what one of them returns: that gives the map and, by the gradient of what is added, its gradient.
"""

from __future__ import annotations

import collections
import difflib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from effvid_jax.errors import UserError
from effvid_jax.methods import Method, Variables


class Layer(NamedTuple):
    """A call that gives a map.

    Attributes:
        name: as a user gives it.
        call: (module path, method, how many-th call), which finds it again.
        shape: (T', h, w, C) of the map.
        dtype: of the map.
        order: frame of the clip that each of the T' is, where the network takes them in an order of its own.
    """

    name: str
    call: tuple[tuple[str, ...], str, int]
    shape: tuple[int, ...]
    dtype: Any
    order: tuple[int, ...] = ()


class Network(NamedTuple):
    """A network as a function, with its layers.

    Attributes:
        apply: (variables of `Variables.network`, clips (B, T, H, W, 3)) -> (logits (B, K), named maps).
        layers: by name, in the order in which they are computed.
        last: name of the last map before the classifier.
    """

    apply: Callable
    layers: Mapping[str, Layer]
    last: str

    def layer(self, name: str = "") -> Layer:
        """A layer by its name; '' for the last map.

        Raises:
            UserError: there is none of this name; lists those that are there.
        """
        if (name := name or self.last) in self.layers:
            return self.layers[name]
        close = difflib.get_close_matches(name, self.layers, cutoff=0.5)
        hint = f"Did you mean {' or '.join(close)}? " if close else ""
        raise UserError(f"--layer={name}: this network has no such layer. {hint}Known: "
                        f"{', '.join(self.layers)}.")


def network_of(method: Method, variables: Variables, clip_shape: tuple[int, ...]) -> Network:
    """The network of a method with its layers, found without computing.

    Args:
        method: with the attribute `model`.
        variables: of the network, or their shapes.
        clip_shape: (T, H, W, 3) that the network sees.

    Raises:
        UserError: the method has no single network, or it has no map over space.
    """
    model = getattr(method, "model", None)
    if model is None:
        raise UserError(f"config.method.name: {type(method).__name__} has no attribute `model`, a single "
                        f"network to look into.")

    def apply(variables, clips):
        (logits, named), _ = model.apply(variables, clips, mutable=["gates"])
        return logits.astype(jnp.float32), named

    return network(apply, variables.network, clip_shape, getattr(model, "order", ()))


def network(apply: Callable, variables, clip_shape: tuple[int, ...], order: tuple[int, ...] = ()) -> Network:
    """As `network_of`, for a function of (variables, clips); `order`: see `Layer.order`."""
    calls: list[tuple[tuple, Any]] = []
    found: dict[str, Layer] = {}

    def look(variables, clips):
        with nn.intercept_methods(_each_call(lambda call, y: calls.append((call, y)))):
            _, named = apply(variables, clips)
        for (path, method, number), y in calls:
            if method == "__call__" and path and _is_map(y):
                name = "/".join(path) + (f":{number + 1}" if number else "")
                found[name] = Layer(name, (path, method, number), y.shape[1:], y.dtype)
        for name, map_ in named.items():
            made_by = next((call for call, y in calls if y is map_), None)
            if made_by and _is_map(map_):
                found[name] = Layer(name, made_by, map_.shape[1:], map_.dtype)
        return 0

    jax.eval_shape(look, variables, jax.ShapeDtypeStruct((1, *clip_shape), jnp.float32))
    layers = {name: layer._replace(order=order if len(order) == layer.shape[0] else ())
              for name, layer in found.items()}
    wide = [name for name, layer in layers.items() if layer.shape[1] * layer.shape[2] > 1]
    if not wide:
        raise UserError(f"no layer of this network gives a map over space at {clip_shape[1]} x "
                        f"{clip_shape[2]} pixels.")
    return Network(apply, layers, "features" if "features" in wide else wide[-1])


def with_map(apply: Callable, layer: Layer, variables, clips, added=None):
    """A forward pass that also gives the map of a layer. Traced.

    Args:
        apply, layer: of a `Network`.
        variables, clips: for `apply`.
        added: (B, T', h, w, C), added to the map before the network goes on; None: nothing.

    Returns:
        logits (B, K), map (B, T', h, w, C).
    """
    seen = []

    def touch(call, y):
        if call != layer.call:
            return None
        seen.append(y if added is None else y + added)
        return seen[-1]

    with nn.intercept_methods(_each_call(touch)):
        logits, _ = apply(variables, clips)
    return logits, seen[0]


def in_time(layer: Layer, maps_BT):
    """(B, T', ...) of a layer with its frames in the order of the clip."""
    return maps_BT[:, jnp.argsort(jnp.array(layer.order))] if layer.order else maps_BT


def _each_call(do: Callable) -> Callable:
    """An interceptor: `do(call, what it gave)` for every call of a method, in the order in which they end.

    What `do` returns, unless None, takes the place of what the call gave.
    """
    counts: collections.Counter = collections.Counter()

    def interceptor(next_fun, args, kwargs, context):
        if context.module.scope is None:
            return next_fun(*args, **kwargs)
        key = (context.module.path, context.method_name)
        number = counts[key]
        counts[key] += 1
        y = next_fun(*args, **kwargs)
        other = do((*key, number), y)
        return y if other is None else other

    return interceptor


def _is_map(y) -> bool:
    return getattr(y, "ndim", 0) == 5
