"""The comparison tables of Dynamic Inference, our figures beside the paper's, for docs/dynamic_inference.md.

    python benchmarks/dynamic_tables.py                                          # what needs no data
    python benchmarks/dynamic_tables.py --run "k400: MSDNet-38, dynamic=runs/dynamic_k400"   # and a run

Wu et al., arXiv 2002.03342: Kinetics-400, UCF-101 and HMDB-51, Something-Something. A cell is our figure with
the paper's in brackets; '–' is what needs the data set. Parameters and full inference are computed from
shapes, networks with exits in the paper's counting (`msdnet` of `effvid_jax.cost`, the heads of all exits on
all frames); `--run DATA: ROW=WORKDIR` fills a row from a run's `metrics.json`. The last two rows of a table
are the embedded benchmark: what `benchmarks/dynamic_embedded.py` measured, in the same columns. Rows go to
`docs/results.csv`; `python -m effvid_jax.reports.results` writes the tables.
"""

from __future__ import annotations

import argparse
import functools
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import jax

from configs import dynamic_k400
from effvid_jax import cost, writers
from effvid_jax.backbones import make_backbone
from effvid_jax.cost.exits import all_heads_cost, route_costs
from effvid_jax.methods import building
from effvid_jax.reports import results

COMMAND = "python benchmarks/dynamic_tables.py"
TOP1, GMACS, PARAMS = "top-1 (%)", "GMACs", "params (M)"
K400 = {  # row: (top-1, millions of parameters, GMACs per video), as the slides of the paper have them
    "I3D, 3-D BN-Inception": ("70.24", "12.7", "544.44"), "S3D, 3-D BN-Inception": ("72.20", "8.8", "518.6"),
    "ARTNet + TSN, 3-D ResNet-18, 250 clips": ("69.2", "35.2", "5925"),
    "MF-Net, 1 clip": ("65.00", "8.0", "11.1"), "MF-Net, 50 clips": ("72.80", "8.0", "555"),
    "ECO, 16 frames": ("69.00", "47.5", "64"), "R(2+1)D-34, 10 clips": ("72.00", "63.8", "1524"),
    "Nonlocal I3D, ResNet-50, 1 clip": ("67.30", "35.33", "145.7"),
    "Nonlocal I3D, ResNet-50, 30 clips": ("76.50", "35.33", "4371"),
    "TSN, BN-Inception, 25 frames": ("69.1", "10.7", "500"),
    "TSN, ResNet-50, 8 frames": ("66.80", "24.3", "33"), "TSN, ResNet-50, 16 frames": ("67.80", "24.3", "64"),
    "TSM, ResNet-50, 8 frames": ("70.60", "24.3", "33"), "TSM, ResNet-50, 16 frames": ("72.50", "24.3", "64"),
    "StNet, ResNet-50": ("69.85", "33.16", "189.29"), "StNet, ResNet-101": ("71.38", "52.15", "310.50"),
    "MSDNet-38, full": ("71.17", "62.31", "52"), "MSDNet-38, dynamic": ("71.20", "62.31", "26.5"),
    "ResNet-50, dynamic": ("72.57", "29.12", "35"), "ResNet-101, dynamic": ("74.70", "48.12", "66")}
SMALL = {  # row: (GMACs and top-1 of UCF-101, of HMDB-51)
    "ARTNet + TSN": ("5925", "94.3", "5925", "70.9"), "ECO": ("64", "92.8", "64", "68.5"),
    "I3D": ("544", "95.1", "544", "74.3"), "TSN, BN-Inception": ("500", "91.1", "", ""),
    "TSN, ResNet-50, 8 frames": ("33", "91.5", "33", "63.2"),
    "TSN, ResNet-50, 16 frames": ("64", "91.4", "64", "63.6"),
    "TSM, ResNet-50, 8 frames": ("33", "94.0", "33", "70.3"),
    "TSM, ResNet-50, 16 frames": ("64", "94.5", "64", "70.7"), "StNet, ResNet-50": ("53", "93.5", "", ""),
    "MSDNet-38, dynamic": ("15.8", "94.2", "29.2", "70.1"),
    "ResNet-50, dynamic": ("18.5", "94.7", "34.4", "72.34"),
    "ResNet-101, dynamic": ("34.6", "95.3", "69.1", "73.48")}
SOMETHING = {  # row: (GMACs and top-1 of version 1, of version 2)
    "ECO, 16 frames": ("64", "41.4", "", ""), "ECO-EnLite": ("267", "46.4", "", ""),
    "I3D": ("306", "41.6", "", ""), "Nonlocal I3D + GCN": ("606", "46.1", "", ""),
    "TSN, ResNet-50, 8 frames": ("33", "19.7", "33", "27.8"),
    "TSN, ResNet-50, 16 frames": ("65", "19.9", "65", "30.0"),
    "TRN multi-scale, BN-Inception": ("33", "34.4", "33", "48.8"),
    "TSM, ResNet-50, 8 frames": ("33", "43.4", "33", "58.2"),
    "TSM, ResNet-50, 16 frames": ("65", "44.8", "65", "58.7"),
    "ResNet-50, dynamic": ("52.8", "45.2", "48.0", "58.2"),
    "MSDNet-38, dynamic": ("38.4", "46.5", "35.4", "60.0")}
TABLES = {
    "dynamic_paper_k400": (K400, (TOP1, PARAMS, GMACS), ("k400",)),
    "dynamic_paper_small": (SMALL, (f"UCF-101: {GMACS}", f"UCF-101: {TOP1}", f"HMDB-51: {GMACS}",
                                    f"HMDB-51: {TOP1}"), ("ucf101", "hmdb51")),
    "dynamic_paper_something": (SOMETHING, (f"V1: {GMACS}", f"V1: {TOP1}", f"V2: {GMACS}", f"V2: {TOP1}"),
                                ("sthv1", "sthv2"))}
CLASSES = {"k400": 400, "ucf101": 101, "hmdb51": 51, "sthv1": 174, "sthv2": 174}
BACKBONES = {"TSN, ResNet-50": "resnet50", "TSM, ResNet-50": "tsm_resnet50", "MSDNet-38": "msdnet_38",
             "ResNet-50": "resnet50", "ResNet-101": "resnet101"}


@functools.cache
def computed(row: str, data_set: str) -> dict[str, str]:
    """What shapes alone tell of a row: parameters, and GMACs of what does not depend on the videos."""
    what, _, form = row.rpartition(", ")
    name, k = BACKBONES.get(what), CLASSES[data_set]
    if name is None:
        return {}
    if form.endswith(" frames"):
        found = cost.count(make_backbone(name, num_classes=k), (int(form.split()[0]), 224, 224, 3))
        return {GMACS: f"{found.gmacs:.1f}", PARAMS: f"{found.params / 1e6:.2f}"}
    # Counted as the paper does: MSDNet with the 1000 classes of ImageNet, ResNets with three exits.
    scheme, classes = ("depth", 1000) if name == "msdnet_38" else ("depth", k)
    config = dynamic_k400.get_config(f"backbone={name},scheme={scheme}")
    model = building.build_backbone(config.model, classes)
    clip = (16, 224, 224, 3)
    full = {GMACS: f"{all_heads_cost(model, clip, 'msdnet'):.1f}"} if form == "full" else {}
    return {PARAMS: _millions(model, clip), **full}


def _millions(model, clip) -> str:
    """Parameters in millions."""
    clip = jax.ShapeDtypeStruct((1, *clip), "float32")
    params = jax.eval_shape(model.init, jax.random.key(0), clip)["params"]
    return f"{sum(x.size for x in jax.tree.leaves(params)) / 1e6:.2f}"


def of_run(workdir: str, form: str) -> dict[str, str]:
    """What a trained run found; 'full' is its last head on everything."""
    found = writers.read_json(os.path.join(workdir, "metrics.json"))
    top1, gmacs = ("val/full_top1", "val/full_gmacs_paper") if form == "full" else ("val/top1", "val/gmacs")
    return {TOP1: f"{100 * found[top1]:.2f}", GMACS: f"{found[gmacs]:.4g}",
            PARAMS: f"{found['params'] / 1e6:.2f}"}


def embedded(rows) -> dict[str, dict[str, tuple[str, str]]]:
    """{row: {column: (value, spread)}} of the embedded benchmark, from what docs/results.csv has of it."""
    known = {row["what"]: row for row in rows}
    model = building.build_backbone(dynamic_k400.get_config("demo").model, 16)
    clip = (8, 64, 64, 3)
    full, paper = route_costs(model, clip)[1], all_heads_cost(model, clip, "msdnet")
    prefix = "dynamic: unified, online shift: "
    share = float(known[f"{prefix}cost (% of full)"]["value"]) / 100
    return {f"ours, embedded benchmark, {form}": {
        TOP1: (known[f"{prefix}{form}, {TOP1}"]["value"], known[f"{prefix}{form}, {TOP1}"]["spread"]),
        PARAMS: (_millions(model, clip), ""), GMACS: (f"{gmacs:.3g}", "")}
        for form, gmacs in (("full", paper), ("dynamic", share * full))}


def table(name: str, runs: dict[tuple[str, str], str], rows) -> list[dict[str, str]]:
    """Rows for docs/results.csv of one table.

    Args:
        name: of `TABLES`.
        runs: {(data set, row): workdir}.
        rows: that docs/results.csv has.
    """
    published, columns, data_sets = TABLES[name]
    found = []
    for what, figures in published.items():
        for i, column in enumerate(columns):
            data_set = data_sets[i * len(data_sets) // len(columns)]
            kind, workdir = column.split(": ")[-1], runs.get((data_set, what))
            ours = of_run(workdir, what.rpartition(", ")[2]) if workdir else computed(what, data_set)
            line = results.make_row(f"{name}: {what}: {column}", ours.get(kind, ""), dataset=data_set,
                                    config="", command=COMMAND, seeds=())
            found.append(line | {"paper": figures[i]})
    for what, values in embedded(rows).items():
        for column in columns:
            value, spread = values[column.split(": ")[-1]]
            found.append(results.make_row(
                f"{name}: {what}: {column}", value, dataset="embedded benchmark", command=COMMAND,
                config="dynamic_k400.py:demo", seeds=(0, 1, 2), spread=spread))
    return found


def main(argv=None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", action="append", default=[], metavar="DATA: ROW=WORKDIR",
                        help=f"a trained run; DATA of {', '.join(CLASSES)}, ROW as in the table")
    parser.add_argument("--results", default=os.path.join(results.ROOT, "docs", "results.csv"))
    args = parser.parse_args(argv)
    jax.config.update("jax_platforms", "cpu")  # nothing runs
    runs = {}
    for text in args.run:
        where, _, workdir = text.partition("=")
        data_set, _, what = where.partition(": ")
        if not any(data_set in sets and what in published for published, _, sets in TABLES.values()):
            sys.exit(f"--run {text}: expected one of {', '.join(CLASSES)}, then ': ' and a row of its table, "
                     f"such as 'k400: MSDNet-38, dynamic=runs/dynamic_k400'.")
        runs[data_set, what] = workdir
    old = results.read_rows(args.results)
    new = [row for name in TABLES for row in table(name, runs, old)]
    results.replace_rows(args.results, new, lambda row: row["what"].split(": ")[0] in TABLES)
    print(f"{len(new)} cells of {len(TABLES)} tables are in {args.results}")


if __name__ == "__main__":
    main()
