"""Promises about early exits on real pools: how often they are broken, and what they save.

    python benchmarks/risk_pools.py --workdir runs/risk_pools --seeds 0,1,2

Trains a network with exits on the embedded benchmark (the demo's, with heads for the rule 'learned'; a run
that is finished is not trained again), scores 4,800 held-out clips made by code, and takes these as the
truth: a trial draws n of them, independently of each other, as calibration videos, has thresholds chosen with
a promise, and looks what they do on all. A promise of an extra error of at most epsilon with probability
1 - delta may be broken in delta of the trials, up to chance (two standard errors); so may the bound on the
mean cost that comes with it, and a budget that is to hold. What is saved is compared with an oracle, the
cheapest thresholds that keep epsilon on the whole pool, chosen knowing all of it. Rows go to
`docs/results.csv`.

Smallest size: `--seeds 0 --clips 64 --trials 5 --budget_trials 2 --draws 40 --config.train.num_steps=10`.
"""

from __future__ import annotations

import glob
import json
import os
import subprocess
import sys
import time
from functools import partial
from typing import NamedTuple

import embedded
import numpy as np

from effvid_jax import writers
from effvid_jax.exits import risk, rules, stopping

CONFIG = "dynamic_k400.py:demo"
COMMAND = "python benchmarks/risk_pools.py"
FLAGS = ("--config.model.exits.judge=32",)
SHOWN = ("confidence", "patience", "learned")
DELTA = 0.1
KEPT = {1600: 50.0}  # calibration videos: of the oracle's saving, at least (%)


class Pool(NamedTuple):
    """Scores of videos by all rules (N, m, R), whether each checkpoint is right (N, m), costs (m,)."""

    scores: np.ndarray
    hits: np.ndarray
    costs: np.ndarray

    def by(self, rule: str) -> Pool:
        """With the scores of one rule, (N, m)."""
        scores = self.scores[..., rules.RULES.index(rule)]
        return self._replace(scores=np.ascontiguousarray(scores, np.float32))

    def drawn(self, count: int, rng):
        """Scores, hits and costs of so many videos, drawn independently."""
        index = rng.integers(0, len(self.hits), count)
        return self.scores[index], self.hits[index], self.costs

    def error_and_cost(self, thresholds) -> tuple[float, float]:
        """Extra error over the last checkpoint, and mean cost."""
        stop = self.scores >= thresholds
        stop[:, -1] = True
        taken = stop.argmax(axis=1)
        found = self.hits[np.arange(len(self.hits)), taken]
        return float(self.hits[:, -1].mean() - found.mean()), float(self.costs[taken].mean())

    def saved(self, cost: float) -> float:
        """Share of the last checkpoint's cost that is saved."""
        return 1 - cost / self.costs[-1]


def score(args, seed: int, extra) -> Pool:
    """The pool of one network, which is trained unless it is there."""
    embedded.train(args.workdir, seed, "network", CONFIG, [*FLAGS, *extra])
    folder = os.path.join(args.workdir, f"seed{seed}", "network")
    clips = f"{args.clips} clips"
    done = os.path.join(folder, f"pool_{args.clips}.npz")
    if not os.path.exists(done):
        begun = time.time()
        command = [sys.executable, "main.py", "--mode=eval", f"--workdir={folder}",
                   f"--config.data.synthetic.val_clips={args.clips}",
                   "--config.data.synthetic.train_clips=16"]
        print("$", " ".join(command[1:]), flush=True)
        subprocess.run(command, cwd=embedded.ROOT, check=True)
        rows, = (path for path in glob.glob(os.path.join(folder, "predictions_val_*.npz"))
                 if os.path.getmtime(path) >= begun)
        with open(rows.replace("predictions_val_", "eval_").replace(".npz", ".json")) as f:
            result = json.load(f)
        with np.load(rows) as found:
            arrays = {name: found[name] for name in ("stop_scores", "answers", "label")}
        m = arrays["answers"].shape[1]
        with writers.whole(str(done)) as part, open(part, "wb") as f:
            np.savez(f, costs=[result[f"val/exit{k + 1}_gmacs"] for k in range(m)], **arrays)
    with np.load(done) as found:
        pool = Pool(found["stop_scores"], found["answers"] == found["label"][:, None], found["costs"])
    print(f"seed {seed}: {clips}, right at each checkpoint (%): {(100 * pool.hits.mean(axis=0)).round(1)}, "
          f"at {(100 * pool.costs / pool.costs[-1]).round(1)} % of the cost", flush=True)
    return pool


def oracle(pool: Pool, epsilon: float) -> float:
    """The largest saving of thresholds that keep `epsilon` on the pool, chosen on all of it."""
    prices = np.geomspace(1e-2, 1e2, 40) / pool.costs[-1]
    choices = [stopping.best_thresholds(*pool, price) for price in prices]
    choices += risk._path(pool.scores, pool.hits, pool.costs)
    found = [pool.error_and_cost(thresholds) for thresholds in choices]
    return max((pool.saved(cost) for error, cost in found if error <= epsilon), default=0.0)


def promises(pool: Pool, rule: str, count: int, epsilon: float, trials: int) -> dict[str, float]:
    """Shares (%) of broken promises, of exceeded bounds on the cost, of the oracle's saving that is kept."""
    pool, rng = pool.by(rule), np.random.default_rng(count)
    broken, dearer, kept, saved = 0, 0, 0, []
    for _ in range(trials):
        found = risk.thresholds_for_risk(*pool.drawn(count, rng), epsilon, DELTA)
        error, cost = pool.error_and_cost(found.thresholds)
        broken, dearer = broken + (error > epsilon), dearer + (cost > found.most_gmacs)
        kept += found.kept
        saved.append(pool.saved(cost))
    best = oracle(pool, epsilon)
    return {"promises broken (%)": 100 * broken / trials, "cost bounds exceeded (%)": 100 * dearer / trials,
            "promised anything (%)": 100 * kept / trials, "saved (%)": 100 * float(np.mean(saved)),
            "of the oracle's saving (%)": 100 * float(np.mean(saved)) / best if best > 0 else float("nan")}


def budgets(pool: Pool, count: int, trials: int) -> dict[str, float]:
    """Shares (%) of budgets, of three quarters of the last checkpoint's cost, that other videos exceed."""
    pool, rng, over = pool.by("confidence"), np.random.default_rng(count), {"with a promise": 0, "without": 0}
    budget = 0.75 * pool.costs[-1]
    for _ in range(trials):
        known = pool.drawn(count, rng)
        for name, thresholds in (
                ("with a promise", risk.thresholds_for_budget(*known, budget, "accuracy", DELTA)),
                ("without", stopping.thresholds_for_budget(*known, budget))):
            over[name] += pool.error_and_cost(thresholds)[1] > budget
    return {f"budget exceeded {name} (%)": 100 * n / trials for name, n in over.items()}


def limit(trials: int) -> float:
    """Delta and two standard errors, in %."""
    return 100 * (DELTA + 2 * np.sqrt(DELTA * (1 - DELTA) / trials))


def main() -> None:
    """Trains and scores what is missing, prints the table, replaces its rows in the results."""
    def more(parser):
        parser.add_argument("--clips", type=int, default=4800, help="held-out clips of a pool")
        parser.add_argument("--trials", type=int, default=1000)
        parser.add_argument("--budget_trials", type=int, default=200)
        parser.add_argument("--draws", default="400,1600", help="calibration videos of a trial")
        parser.add_argument("--epsilons", default="0.01,0.02")

    args, extra = embedded.arguments(__doc__, "runs/risk_pools", more)
    pools = [score(args, seed, extra) for seed in args.seeds]
    draws, epsilons = [int(n) for n in args.draws.split(",")], [float(e) for e in args.epsilons.split(",")]
    print(f"{args.trials} trials: a promise may be broken in {limit(args.trials):.1f} % of them (delta = "
          f"{100 * DELTA:.0f} %, and two standard errors); {args.budget_trials} trials of budgets: "
          f"{limit(args.budget_trials):.1f} %")
    rows, failed = [], []
    cells = [(f"{rule}, epsilon {epsilon:g}, {n} calibration videos", n, args.trials,
              partial(promises, rule=rule, count=n, epsilon=epsilon, trials=args.trials))
             for rule in SHOWN for epsilon in epsilons for n in draws]
    cells.append((f"confidence, {draws[0]} calibration videos", 0, args.budget_trials,
                  partial(budgets, count=draws[0], trials=args.budget_trials)))
    for name, n, trials, measure in cells:
        found = [measure(pool) for pool in pools]
        columns = {column: [one[column] for one in found] for column in found[0]}
        print(f"{name}: " + "; ".join(f"{column} {', '.join(f'{x:.1f}' for x in values)}"
                                      for column, values in columns.items()), flush=True)
        promised = {column: values for column, values in columns.items()
                    if column.startswith(("promises", "cost bounds", "budget exceeded with a"))}
        failed += [f"{name}: {column} {max(values):.1f}" for column, values in promised.items()
                   if max(values) > limit(trials)]
        kept = columns.get("of the oracle's saving (%)", [100.0])
        if n in KEPT and min(kept) < KEPT[n]:
            failed.append(f"{name}: {min(kept):.1f} % of the oracle's saving")
        rows += [embedded.row(f"risk: {name}: {column}", values, ".1f", CONFIG,
                              f"{COMMAND} --clips {args.clips} --trials {args.trials}", args.seeds)
                 for column, values in columns.items()]
    for row in rows:
        row["dataset"] = f"embedded benchmark (3000 train, {args.clips} held-out clips)"
    embedded.replace_table(args.results, "risk", rows)
    print("\n".join(failed) or f"every promise was kept as often as was said, and of the oracle's saving at "
          f"least {KEPT[1600]:.0f} % with 1600 videos")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
