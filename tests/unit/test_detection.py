"""Boxes against small implementations of their own, on random cases with ties and empty ones."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effvid_jax import cost
from effvid_jax.backbones import make_backbone
from effvid_jax.detection import anchors, boxes, listed, scoring
from effvid_jax.detection.region_loss import Scales, region_loss
from effvid_jax.drawn import boxes as drawing
from effvid_jax.errors import UserError
from effvid_jax.gating import gates
from effvid_jax.heads import Headed
from effvid_jax.heads.boxes import BoxHead, ChannelAttention


# ------------------------------------------------------------ independent: loops over numbers, no arrays
def plain_iou(a, b):
    w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    both = max(w, 0) * max(h, 0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both
    return both / union if union > 0 else 0.0


def plain_nms(found, sure, most):
    left, kept = sorted(range(len(found)), key=lambda i: -sure[i]), []
    while left:
        best = left.pop(0)
        kept.append(best)
        left = [i for i in left if plain_iou(found[best], found[i]) <= most]
    return kept


def plain_ap(found, truth, label, threshold, points=0):
    """VOC's own way: one detection after the other, area of the envelope by recalls that occur."""
    mine = sorted((d for d in found if d[1] == label), key=lambda d: -d[3])
    theirs = [t for t in truth if t[1] == label]
    if not theirs:
        return math.nan
    used, right = set(), []
    for frame, _, box, _ in mine:
        there = [(plain_iou(box, t[2]), -j) for j, t in enumerate(theirs) if t[0] == frame]
        value, j = max(there, default=(-1, 0))
        right.append(value >= threshold and j not in used)
        if right[-1]:
            used.add(j)
    pairs = [(sum(right[:n]) / len(theirs), sum(right[:n]) / n) for n in range(1, len(right) + 1)]
    if points:
        at = [i / (points - 1) for i in range(points)]
        return sum(max([p for r, p in pairs if r >= t - 1e-9], default=0.0) for t in at) / points
    area, last = 0.0, 0.0
    for r in sorted({r for r, _ in pairs}):
        area += (r - last) * max(p for q, p in pairs if q >= r)
        last = r
    return area


def plain_recall(found, truth, threshold):
    seen = right = 0
    for frame, label, box, _ in truth:
        there = [(plain_iou(box, d[2]), -j, d[1]) for j, d in enumerate(found) if d[0] == frame]
        value, _, said = max(there, default=(0, 0, -1))
        if value > threshold:
            seen += 1
            right += said == label
    return seen / len(truth) if truth else 0.0, right / seen if seen else 0.0


def some_boxes(rng, count, frames, classes):
    """Boxes on a coarse grid with coarse scores: equal overlaps, equal scores, boxes without an area."""
    corner = rng.integers(0, 6, (count, 2))
    box = np.concatenate([corner, corner + rng.integers(0, 4, (count, 2))], axis=1) / 8
    return scoring.Boxes(rng.integers(0, max(1, frames), count), rng.integers(0, classes, count), box,
                         rng.integers(0, 5, count) / 4)


def plain(some):
    return [(int(f), int(k), b.tolist(), float(s)) for f, k, b, s in zip(*some)]


def test_a_thousand_cases_agree_with_plain_loops():
    rng, empty = np.random.default_rng(0), 0
    for case in range(1000):
        frames, classes = int(rng.integers(1, 4)), int(rng.integers(1, 4))
        found, truth = (some_boxes(rng, int(rng.integers(0, most)), frames, classes) for most in (12, 6))
        empty += not len(found.frame) or not len(truth.frame)
        f, t = plain(found), plain(truth)
        threshold = float(rng.choice([0.0, 0.25, 0.5, 1.0]))
        overlaps = boxes.iou(found.box, truth.box)
        np.testing.assert_allclose(overlaps, np.array([[plain_iou(a[2], b[2]) for b in t] for a in f]
                                                      ).reshape(len(f), len(t)), atol=1e-12)
        kept = boxes.nms(found.box, found.score, threshold)
        assert kept.tolist() == plain_nms([x[2] for x in f], [x[3] for x in f], threshold), case
        for points in (0, 11):
            mean, each = scoring.frame_map(found, truth, classes, threshold, points)
            wanted = [plain_ap(f, t, k, threshold, points) for k in range(classes)]
            np.testing.assert_allclose(each, wanted, atol=1e-9)
            known = [x for x in wanted if not math.isnan(x)]
            assert mean == pytest.approx(sum(known) / len(known) if known else 0.0)
        assert scoring.recall(found, truth, threshold) == pytest.approx(plain_recall(f, t, threshold))
    assert empty > 50
    np.testing.assert_allclose(boxes.iou(jnp.asarray(found.box), jnp.asarray(truth.box)), overlaps, atol=1e-6)


def test_a_perfect_network_scores_one():
    rng = np.random.default_rng(1)
    corner = rng.uniform(0, 0.5, (40, 2))
    box = np.concatenate([corner, corner + rng.uniform(0.1, 0.4, (40, 2))], axis=1)
    truth = scoring.Boxes(np.arange(40), rng.integers(0, 3, 40), box, np.ones(40))
    assert scoring.frame_map(truth, truth, 3)[0] == scoring.frame_map(truth, truth, 3, points=11)[0] == 1.0
    assert scoring.recall(truth, truth) == (1.0, 1.0)


def test_anchors_are_the_sizes_of_the_boxes():
    rng = np.random.default_rng(0)
    wanted = np.array([[0.05, 0.1], [0.2, 0.2], [0.4, 0.8]])
    sizes = np.concatenate([size * rng.uniform(0.95, 1.05, (30, 2)) for size in wanted])
    rng.shuffle(sizes)
    found = anchors.find(sizes, 3)
    np.testing.assert_allclose(found, wanted, rtol=0.03)
    np.testing.assert_array_equal(found, anchors.find(sizes, 3))
    assert anchors.fit(sizes, found) > 0.9
    assert anchors.find(np.array([[0.3, 0.4]]), 5).tolist() == [[0.3, 0.4]] * 5


# --------------------------------------------------------------------------------------- decoding, loss
ANCHORS = np.array([[0.2, 0.3], [0.5, 0.4]])


def plain_decode(raw, known):
    out = []
    for i, row in enumerate(raw):
        for j, cell in enumerate(row):
            for t, (a, b) in zip(cell, known):
                x = (j + 1 / (1 + math.exp(-t[0]))) / len(row)
                y = (i + 1 / (1 + math.exp(-t[1]))) / len(raw)
                w, h = a * math.exp(t[2]), b * math.exp(t[3])
                e = [math.exp(z) for z in t[5:]]
                out.append([x - w / 2, y - h / 2, x + w / 2, y + h / 2, 1 / (1 + math.exp(-t[4])),
                            *(z / sum(e) for z in e)])
    return out


def plain_loss(raw, truth, labels, known, s):
    """The reference's order of things: fill targets box by box, later ones over earlier ones; then sum."""
    found = plain_decode(raw, known)
    h, w, a, _ = np.shape(raw)
    flat = np.reshape(raw, (h * w * a, -1))
    weight = [0.0 if any(plain_iou(p[:4], t) > s.ignore for t in truth) else s.no_object for p in found]
    targets = {}
    for box, label in zip(truth, labels):
        cx, cy = (box[0] + box[2]) / 2 * w, (box[1] + box[3]) / 2 * h
        i, j, size = min(int(cy), h - 1), min(int(cx), w - 1), (box[2] - box[0], box[3] - box[1])
        fits = [plain_iou((0, 0, *size), (0, 0, *k)) for k in known]
        best = fits.index(max(fits))
        at = (i * w + j) * a + best
        shape = [math.log(x / y) for x, y in zip(size, known[best])]
        targets[at] = (cx - j, cy - i, *shape), plain_iou(found[at][:4], box), label
    total = 0.0
    for p, out in enumerate(flat):
        sure = 1 / (1 + math.exp(-out[4]))
        if p not in targets:
            total += weight[p] * sure**2 / 2
            continue
        wanted, overlap, label = targets[p]
        said = [1 / (1 + math.exp(-out[0])), 1 / (1 + math.exp(-out[1])), out[2], out[3]]
        for x, y in zip(said, wanted):
            d = abs(x - y)
            total += s.coordinates * (d * d / 2 if d < 1 else d - 0.5) / 2
        total += s.object * (sure - overlap)**2 / 2
        chance = found[p][5 + label]
        total -= s.classes * (1 - chance)**s.gamma * math.log(chance)
    return total


def test_the_loss_is_the_references_term_by_term():
    rng, scales = np.random.default_rng(0), Scales(5.0, 1.5, 0.7, 2.0, 2.0, 0.4)
    batch, most, classes = 24, 4, 3
    raw = rng.normal(0, 1, (batch, 2, 3, 2, 5 + classes)).astype(np.float32)
    corner = rng.uniform(0, 0.6, (batch, most, 2))
    truth = np.concatenate([corner, corner + rng.uniform(0.1, 0.4, (batch, most, 2))], axis=-1)
    truth[:4, 1] = truth[:4, 0]  # two boxes with one predictor
    truth[4, 0] = 0.75, 0.9, 1.25, 1.1  # its centre on the last edge
    count = rng.integers(0, most + 1, batch)
    count[:5] = 2
    labels = rng.integers(0, classes, (batch, most))
    truth[np.arange(most) >= count[:, None]] = 0
    known = jnp.asarray(ANCHORS, jnp.float32)

    def losses(raw):
        found = boxes.decode(raw, known)
        each = region_loss(raw, found[..., :4], known, jnp.asarray(truth, jnp.float32), jnp.asarray(labels),
                           jnp.asarray(count), scales)
        return each.sum(), (each, found)

    run = jax.jit(jax.value_and_grad(losses, has_aux=True))
    (_, (ours, found)), slope = run(jnp.asarray(raw))
    np.testing.assert_allclose(found[0], plain_decode(raw[0].tolist(), ANCHORS.tolist()), atol=1e-5)
    wanted = [plain_loss(raw[b].tolist(), truth[b, :n].tolist(), labels[b, :n].tolist(), ANCHORS.tolist(),
                         scales) for b, n in enumerate(count)]
    np.testing.assert_allclose(ours, wanted, rtol=2e-5)
    assert np.isfinite(slope).all() and np.abs(slope).max() > 0
    far = run(jnp.full(raw.shape, 90.0))
    assert np.isfinite(far[0][0]) and np.isfinite(far[1]).all(), "whatever an untrained network says"


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_a_class_that_is_certain_has_a_gradient(gamma):
    known = jnp.asarray(ANCHORS[:1], jnp.float32)
    truth, label, count = jnp.asarray([[[0.3, 0.3, 0.7, 0.7]]]), jnp.asarray([[0]]), jnp.asarray([1])

    def loss(classes):
        raw = jnp.concatenate([jnp.zeros(5), classes]).reshape(1, 1, 1, 1, 8)
        found = boxes.decode(raw, known)
        return region_loss(raw, found[..., :4], known, truth, label, count, Scales(gamma=gamma))[0]

    run = jax.jit(jax.vmap(jax.value_and_grad(loss)))
    value, slope = run(jnp.asarray([[x, 0.0, 0.0] for x in (0.0, 5.0, 17.0, 18.0, 30.0, 110.0, -110.0)]))
    assert np.isfinite(value).all() and np.isfinite(slope).all()
    assert (slope[:2, 0] < 0).all() and (np.abs(slope[2:6]) < 1e-6).all() and slope[6, 0] < -0.5


# -------------------------------------------------------------------------------------------- the head
def test_static_costs_are_the_papers():
    """VA-RED2's Table 8; what is left when every gate is closed lies below the paper's averages."""
    clip = (16, 224, 224, 3)
    for name, paper in (("i3d_tp", 43.9), ("x3d_m", 5.75)):
        head = BoxHead(21, ((0.5, 0.5),) * 5)
        network = Headed(trunk=make_backbone(name, num_classes=21), head=head)
        found = cost.count(network, clip)
        assert found.gmacs == pytest.approx(paper, rel=0.01), name
        layers = gates.layers_of(name)
        gated = [layer for layer in found.layers if layer.kind == "conv" and re.fullmatch(layers, layer.name)]
        floor = found.gmacs - 0.75 * sum(layer.macs for layer in gated) / 1e9
        stem = sum(layer.macs for layer in gated if layer.name.startswith("Conv3d_1a")) / 1e9
        if name == "i3d_tp":
            assert floor < 21.3 < floor + 0.75 * stem, "the paper's average needs a gated stem"
            assert floor == pytest.approx(11.7, abs=0.2)
        else:
            assert floor < 4.85


def test_the_head_begins_without_attention_and_keeps_its_anchors():
    head = BoxHead(3, ((0.2, 0.3), (0.5, 0.4)), width=8, dropout=0.5)
    maps = {"features": jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 4, 5, 6)), jnp.float32)}
    variables = jax.jit(head.init)(jax.random.key(0), maps)
    found = head.apply(variables, maps)
    assert found.shape == (2, 4 * 5 * 2, 8) and found.dtype == jnp.float32
    np.testing.assert_allclose(found[..., 5:].sum(axis=-1), 1, rtol=1e-5)
    np.testing.assert_allclose(variables["batch_stats"]["anchors"], ANCHORS, rtol=1e-6)
    other = BoxHead(3, ((0.9, 0.9),) * 2, width=8)
    np.testing.assert_array_equal(other.apply(variables, maps), found, "those of the variables count")
    (said, raw, known), _ = head.apply(variables, maps, True, mutable=["batch_stats"],
                                       rngs={"dropout": jax.random.key(1)})
    np.testing.assert_allclose(said, boxes.decode(raw, known), rtol=1e-6)
    x = np.asarray(maps["features"][:, 0, ..., :4], np.float64)
    flat = x.reshape(2, 20, 4)
    gram = np.einsum("bpc,bpd->bcd", flat, flat)
    weights = np.exp(gram.max(axis=-1, keepdims=True) - gram)
    weights /= weights.sum(axis=-1, keepdims=True)
    module = ChannelAttention()
    for scale in (0.0, 0.7):
        ours = module.apply({"params": {"scale": jnp.float32(scale)}}, jnp.asarray(x, jnp.float32))
        wanted = flat + scale * np.einsum("bcd,bpd->bpc", weights, flat)
        np.testing.assert_allclose(ours, wanted.reshape(x.shape), rtol=1e-3, atol=1e-4)


# ------------------------------------------------------------------------------- files, pictures, words
def test_lists_of_boxes_come_back():
    names = ["a", 'b "x", y']
    text = listed.text(names, np.array([[0, 0, 0.5, 0.5], [0.1, 0.2, 0.3, 0.4]]), [1, 0], [0.25, 0.75])
    read = listed.read({"video": "v", "boxes": text}, "boxes")
    assert read == [["a", 0.75, 0.1, 0.2, 0.3, 0.4], ['b "x", y', 0.25, 0, 0, 0.5, 0.5]]
    assert listed.agree(read, read, 0.5) and listed.agree([], [], 0.5)
    assert not listed.agree(read, read[:1], 0.5) and not listed.agree([], read, 0.5)
    for damaged in ("[[1]]", '[["a", 1, 2]]', "[", '[["a", "x", 0, 0, 1, 1]]'):
        with pytest.raises(UserError, match="column 'boxes' of 'v' is no json list"):
            listed.read({"video": "v", "boxes": damaged}, "boxes")


def test_boxes_are_drawn_where_they_are():
    frame = np.zeros((90, 120, 3), np.uint8)
    drawn = drawing.draw(frame, np.array([[0.25, 0.5, 0.75, 0.9]]), [1], ["some class 93%"])
    height, width = drawn.shape[:2]
    assert min(height, width) >= 360 and drawn.dtype == np.uint8
    edge = (drawn == drawing.COLOURS[1]).all(axis=-1)
    rows, columns = np.flatnonzero(edge.any(axis=1)), np.flatnonzero(edge.any(axis=0))
    assert abs(columns[0] / width - 0.25) < 0.02 and abs(rows[-1] / height - 0.9) < 0.02
    assert not frame.any(), "the frame itself stays"
    beyond = drawing.draw(frame, np.array([[-0.5, -0.5, 1.5, 1.5]]), [9], ["x" * 40])
    assert beyond.shape == drawn.shape
