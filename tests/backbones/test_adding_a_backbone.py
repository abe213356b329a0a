"""The example of docs/adding_a_backbone.md works as it stands and passes the tests of the registry."""

import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effvid_jax.backbones import BACKBONES, make_backbone
from effvid_jax.torch_import import convert_with_report
from effvid_jax.torch_import.naming import NAMING
from tests.backbones import test_registry as registry

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "adding_a_backbone.md"


@pytest.fixture(scope="module", autouse=True)
def example():
    """Executes the page's code, as one module; its entries are gone afterwards."""
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    exec(compile(code, str(PAGE), "exec"), {"__name__": "plain_net"})
    yield
    del BACKBONES["plain_net"], NAMING["PlainNet"], registry.FACTS["plain_net"]


@pytest.mark.parametrize("test", [
    registry.test_shapes_and_feature_names, registry.test_parameters_and_cost_are_the_published_ones,
    registry.test_every_parameter_reaches_the_loss])
def test_registry(test):
    test("plain_net")


def test_import_table():
    rng, state = np.random.default_rng(0), {}

    def norm(name, width):
        for leaf in ("weight", "bias", "running_mean", "running_var"):
            state[f"{name}.{leaf}"] = rng.random(width, np.float32) + 0.5
        state[f"{name}.num_batches_tracked"] = np.array(3)

    state["stem.0.weight"] = rng.random((16, 3, 3, 3), np.float32)
    norm("stem.1", 16)
    for s, (width, out) in enumerate(((16, 32), (32, 64))):
        state[f"stages.{s}.conv.weight"] = rng.random((out, width, 3, 3, 3), np.float32)
        norm(f"stages.{s}.norm", out)
    state["head.weight"], state["head.bias"] = rng.random((5, 64), np.float32), np.ones(5, np.float32)

    model, clip = make_backbone("plain_net", num_classes=5), jnp.ones((1, 2, 16, 16, 3))
    variables, report = convert_with_report(
        "plain_net", state, jax.eval_shape(model.init, jax.random.key(0), clip))
    assert report.convention == "PlainNet" and report.dropped == 3
    assert np.array_equal(variables["params"]["stages_1"]["conv"]["kernel"][2, 1, 0, 3, 7],
                          state["stages.1.conv.weight"][7, 3, 2, 1, 0])
    assert np.isfinite(jax.jit(model.apply)(variables, clip)[0]).all()
