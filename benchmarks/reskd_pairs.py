"""ResKD between families of networks on the embedded benchmark: three seeds, a row a pair and a loss.

    python benchmarks/reskd_pairs.py --workdir runs/reskd_pairs --seeds 0,1,2
    python benchmarks/reskd_pairs.py --pairs uniformer_s-movinet_a0    # one of them; with commas several

Per seed: a teacher at 64 pixels, the plain student at 32 (shrunk from 64 as the distilled one's are), and a
student of that teacher a loss: class scores at every position, or maps through a learned projection, since
widths differ. All are the small members of their families, on the benchmark's coarser clips (those of the
VA-RED2 demo): patches of four pixels hardly see the finer ones move, and a UniFormer stayed at the textures
for 1,500 steps on both seeds that were tried. A stage that is finished is not trained again, so the
command can be stopped and repeated. Rows go to `docs/results.csv`.
"""

from __future__ import annotations

from collections.abc import Sequence

import embedded

PAIRS = ("uniformer_s-tsm_mobilenet_v4_conv_small", "uniformer_s-movinet_a0", "videomae_s-movinet_a0")
# Weights are the released ones of Video Swin and of the residual networks. The former is 200 of a mean that
# is over the 400 classes of Kinetics as well: 8 of one over 16. With 200 a MobileNetV4 stayed at chance.
LOSSES = {
    "position_kl": ["--config.method.loss=position_kl", "--config.method.weight=8"],
    "feature, projected": ["--config.method.loss=feature", "--config.method.weight=100",
                           "--config.method.projection=True"],
}
CLIPS = ("--config.data.synthetic.min_period=10.0", "--config.data.synthetic.max_period=12.0",
         "--config.data.synthetic.difficulty=0.1")
# A transformer without convolutions does not train with the recipe's SGD. UniFormer, which has some, learned
# more with it than with AdamW at 2e-4, 5e-4 or 1e-3.
TEACHING = {"uniformer_s": ["--config.train.num_steps=1500"],  # after 500 it is behind its students
            "videomae_s": ["--config.optim.name=adamw", "--config.optim.lr=1e-3",
                           "--config.optim.weight_decay=0.05"]}
NAME, COMMAND = "reskd_pairs", "python benchmarks/reskd_pairs.py"


def runs_of(pair: str, folder: str) -> dict[str, tuple[str, str, list[str]]]:
    """{row: (folder of the run, config, flags)} of a pair 'teacher-student', in the order of training."""
    teacher, student = pair.split("-")
    found = {f"teacher {teacher}, 64 px": (
        f"teacher_{teacher}", f"supervised_minik.py:demo,backbone={teacher}", TEACHING.get(teacher, []))}
    found[f"plain {student}, 32 px"] = (
        f"plain_{student}", f"supervised_minik.py:demo,backbone={student}", ["--config.model.resolution=32"])
    for loss, flags in LOSSES.items():
        found[f"{student} of {teacher}, {loss}, 32 px"] = (
            f"{teacher}_{student}_{loss.partition(',')[0]}",
            f"reskd_minik.py:demo,backbone={student},teacher={teacher}",
            ["--config.run=", f"--config.method.teacher={folder}/teacher_{teacher}", *flags])
    return found


def all_runs(pairs: Sequence[str], folder: str) -> dict[str, tuple[str, str, list[str]]]:
    """`runs_of` several pairs, which may share teachers and plain students."""
    return {what: run for pair in pairs for what, run in runs_of(pair, folder).items()}


def main() -> None:
    """Trains what is missing, prints the table, replaces its rows in the results."""
    def more(parser):
        parser.add_argument("--pairs", default=",".join(PAIRS), help="teacher-student, with commas")

    args, extra = embedded.arguments(__doc__, "runs/reskd_pairs", more)
    pairs = args.pairs.split(",")
    if unknown := [pair for pair in pairs if pair.count("-") != 1]:
        raise SystemExit(f"--pairs={args.pairs}: {unknown[0]!r} is not TEACHER-STUDENT.")
    for seed in () if args.collect else args.seeds:
        for run, config, flags in all_runs(pairs, f"{args.workdir}/seed{seed}").values():
            embedded.train(args.workdir, seed, run, config, [*flags, *CLIPS, *extra])
    rows = []
    for what, (run, config, _) in all_runs(pairs, "").items():
        found = embedded.read(args.workdir, args.seeds, run)
        if len(found) < len(args.seeds):
            print(f"{what}: not finished")
            continue
        columns = {"top-1 (%)": ([100 * m["val/top1"] for m in found], ".1f"),
                   "GMACs": ([m["val/gmacs"] for m in found], ".4f"),
                   "params": ([m["params"] for m in found], ",.0f")}
        rows += [embedded.row(f"{NAME}: {what}: {column}", values, form, config, COMMAND, args.seeds)
                 for column, (values, form) in columns.items()]
        print(f"{what:66s} {rows[-3]['value']:>5s} % +- {rows[-3]['spread']}, {rows[-2]['value']} GMACs")
    if rows:
        embedded.replace_table(args.results, NAME, rows)


if __name__ == "__main__":
    main()
