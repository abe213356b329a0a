"""The ResKD comparisons on the embedded benchmark: three seeds, the paper's Tables 5 and 6, and one of ours.

    python benchmarks/reskd_embedded.py --workdir runs/reskd_embedded --seeds 0,1,2
    python benchmarks/reskd_embedded.py --tables 5                     # one of them

Per seed: a deep teacher at 64 pixels, the plain network at 32, the ResKD student at 32 (deep teacher, high
resolution). Table 6: model distillation (deep teacher at 32) and resolution distillation (a teacher like
the student, at 64). Table 5: students of the same teacher that are told its class scores, of the clip or of
every frame, in place of its maps; told maps they are the ResKD student, which all tables share. "stored":
students of the teacher's stored answers about one, two or four clips of each video, beside one whose
teacher looks at a new clip in every pass with the statistics that stored answers need. Seeds share the
clips; a seed sets weights, batches and augmentation. A stage that is finished is not trained again, so the
command can be stopped and repeated. Rows go to `docs/results.csv`.
"""

from __future__ import annotations

import embedded

# The released baselines crop and resize at low resolution; students crop at high resolution and shrink inside
# the model, which keeps more detail of small crops. "control" is the plain network with the students' input,
# so that distillation is not credited with it. Students of class scores have the teacher of "reskd".
OF_RESKD = ["--config.run=", "--config.method.teacher={seed}/reskd/teacher"]
RUNNING, VIEWS = "--config.method.teacher_bn=running", (4, 2, 1)
RUNS = {  # folder: (config, further flags)
    "reskd": ("reskd_minik.py:demo", ["--config.run=teacher,baseline,student"]),
    "resolution": ("reskd_minik.py:demo,distill=resolution", ["--config.run=teacher,student"]),
    "model": ("reskd_minik.py:demo,distill=model", ["--config.run=teacher,student"]),
    "control": ("supervised_minik.py:demo", ["--config.model.resolution=32"]),
    "clip": ("reskd_minik.py:demo,ablation=clip", OF_RESKD),
    "frame": ("reskd_minik.py:demo,ablation=frame", OF_RESKD),
    "running": ("reskd_minik.py:demo", [*OF_RESKD, RUNNING]),
    **{f"stored_{n}": ("reskd_minik.py:demo", [
        *OF_RESKD, RUNNING, "--config.method.teacher_store={seed}/store", f"--config.data.fixed_views={n}"])
       for n in VIEWS},
}
TABLES = {  # of the paper, and ours: (name in the results, {row: stage})
    "6": ("reskd", {
        "deep teacher, 64 px": "reskd/teacher",
        "teacher like the student, 64 px": "resolution/teacher",
        "deep teacher, 32 px": "model/teacher",
        "plain network, 32 px": "reskd/baseline",
        "plain network, 32 px shrunk from 64 as the student's": "control",
        "model distillation, 32 px": "model/student",
        "resolution distillation, 32 px": "resolution/student",
        "ResKD, 32 px": "reskd/student"}),
    "5": ("reskd_table5", {
        "deep teacher, 64 px": "reskd/teacher",
        "plain network, 32 px": "reskd/baseline",
        "plain network, 32 px shrunk from 64 as the students'": "control",
        "clip (class scores)": "clip",
        "frame (class scores of every frame)": "frame",
        "pixel (maps)": "reskd/student"}),
    "stored": ("reskd_stored", {
        "new clips, statistics of the batch (ResKD)": "reskd/student",
        "new clips, running statistics": "running",
        **{f"stored, {n} clip{'s' * (n > 1)} a video": f"stored_{n}" for n in VIEWS}}),
}
COMMAND = "python benchmarks/reskd_embedded.py"


def needed(table: str) -> list[str]:
    """The runs whose stages a table has, in the order in which they can be trained."""
    used = {stage.partition("/")[0] for stage in TABLES[table][1].values()}
    return [run for run in RUNS if run in used]


def rows_of(table: str, workdir: str, seeds) -> list[dict[str, str]]:
    """Rows of the results, of the stages that all seeds have; prints them."""
    name, stages = TABLES[table]
    rows = []
    for what, stage in stages.items():
        found = embedded.read(workdir, seeds, stage)
        if len(found) < len(seeds):
            print(f"{what}: not finished")
            continue
        config = "reskd_minik.py:demo" if table == "6" else RUNS[stage.partition("/")[0]][0]
        columns = {"top-1 (%)": ([100 * m["val/top1"] for m in found], ".1f"),
                   "GMACs": ([m["val/gmacs"] for m in found], ".3f"),
                   "params": ([m["params"] for m in found], ",.0f")}
        rows += [embedded.row(f"{name}: {what}: {column}", values, form, config,
                              f"{COMMAND} --tables {table}", seeds)
                 for column, (values, form) in columns.items()]
        print(f"{what:52s} {rows[-3]['value']:>5s} % +- {rows[-3]['spread']}, {rows[-2]['value']} GMACs")
    return rows


def main() -> None:
    """Trains what is missing, prints the tables, replaces their rows in the results."""
    def more(parser):
        parser.add_argument("--tables", default=",".join(TABLES), help="with commas; all by default")

    args, extra = embedded.arguments(__doc__, "runs/reskd_embedded", more)
    tables = args.tables.split(",")
    if unknown := [table for table in tables if table not in TABLES]:
        raise SystemExit(f"--tables={args.tables}: no table {unknown[0]!r}; there are "
                         f"{' and '.join(TABLES)}.")
    for seed in () if args.collect else args.seeds:
        for run in dict.fromkeys(run for table in tables for run in needed(table)):
            config, flags = RUNS[run]
            folder = f"{args.workdir}/seed{seed}"
            embedded.train(args.workdir, seed, run, config, [*(f.format(seed=folder) for f in flags), *extra])
    for table in tables:
        if rows := rows_of(table, args.workdir, args.seeds):
            embedded.replace_table(args.results, TABLES[table][0], rows)


if __name__ == "__main__":
    main()
