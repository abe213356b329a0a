"""bfloat16 stays within the stated distance of float32, and a second batch compiles nothing.

The networks as they are published carry the marker `slow`; of some kinds a narrow one is always tested. Of
those that differ in numbers of blocks and channels alone, or in a shift of channels, which rounds nothing, it
is the one with the largest distance on the page.
"""

import pathlib
import re

import pytest

from benchmarks import precision
from effvid_jax.backbones import BACKBONES
from tests.backbones.test_registry import kind

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "precision.md"
ROWS = [(name, float(logits), float(pooled), int(programs)) for name, logits, pooled, programs in re.findall(
    r"^\| `(\w+)` +\| \S+ +\| ([\d.]+) +\| ([\d.]+) .*\| (\d+) +\|$", PAGE.read_text(encoding="utf-8"),
    re.MULTILINE)]
WORST = {kind(name.removeprefix("tsm_")): name for name, *_ in sorted(
    ROWS, key=lambda row: max(row[1:3]))}
SHALLOW = {"width": 8, "stage_sizes": (1, 1, 1, 1)}
NARROW = {
    "tsm_resnet18": ((2, 32, 32), SHALLOW),
    "mobilenet_v2": ((1, 32, 32), {"width_mult": 0.25}),
    "r2plus1d_18": ((4, 32, 32), SHALLOW),
    "x3d_s": ((4, 32, 32), {"widths": (8, 8, 16, 16), "stage_sizes": (2, 1, 1, 1)}),
    "swin3d_t": ((4, 32, 32), {"embed_dim": 8, "num_heads": (1, 1, 2, 2), "depths": (2, 1, 1, 1)}),
    "msdnet_b4_s4": ((1, 32, 32), {"stem": "cifar", "num_blocks": 2, "base": 2, "step": 1, "channels": 4,
                                   "growth": 4, "scale_factors": (1, 2), "bottleneck_factors": (1, 2)}),
}


def check(name, clip=None, **options):
    found = precision.measure(name, clip, **options)
    print(name, found)
    assert max(found["logits"], found["pooled"]) <= precision.BOUND
    assert found["programs"] == 1


@pytest.mark.parametrize("name", NARROW)
def test_narrow(name):
    clip, options = NARROW[name]
    check(name, clip, **options)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(WORST.values()))
def test_as_published(name):
    check(name)


def test_page_has_every_backbone_within_the_bound():
    text = PAGE.read_text(encoding="utf-8")
    assert f"Bound for every backbone: {precision.BOUND}." in text
    assert text.startswith(precision.HEADER)
    assert [name for name, *_ in ROWS] == list(BACKBONES)
    for name, logits, pooled, programs in ROWS:
        assert max(logits, pooled) <= precision.BOUND and programs == 1, name
