"""The ResKD comparison on the embedded benchmark: three seeds, every row of the paper's Table 6.

    python benchmarks/reskd_embedded.py --workdir runs/reskd_embedded --seeds 0,1,2

Per seed: a deep teacher at 64 pixels, the plain network at 32, the ResKD student at 32 (deep teacher, high
resolution), model distillation (deep teacher at 32) and resolution distillation (a teacher like the
student, at 64). Seeds share the clips; a seed sets weights, batches and augmentation. A stage that is
finished is not trained again, so the command can be stopped and repeated. Rows go to `docs/results.csv`.
"""

from __future__ import annotations

import embedded

RUNS = {  # folder: (config, further flags)
    "reskd": ("reskd_minik.py:demo", ["--config.run=teacher,baseline,student"]),
    "resolution": ("reskd_minik.py:demo,distill=resolution", ["--config.run=teacher,student"]),
    "model": ("reskd_minik.py:demo,distill=model", ["--config.run=teacher,student"]),
    # The released baselines crop and resize at low resolution; students crop at high resolution and
    # shrink inside the model, which keeps more detail of small crops. This is the plain network with
    # the students' input, so that distillation is not credited with it.
    "control": ("supervised_minik.py:demo", ["--config.model.resolution=32"]),
}
ROWS = {  # row of the table: stage
    "deep teacher, 64 px": "reskd/teacher",
    "teacher like the student, 64 px": "resolution/teacher",
    "deep teacher, 32 px": "model/teacher",
    "plain network, 32 px": "reskd/baseline",
    "plain network, 32 px shrunk from 64 as the student's": "control",
    "model distillation, 32 px": "model/student",
    "resolution distillation, 32 px": "resolution/student",
    "ResKD, 32 px": "reskd/student",
}
COMMAND = "python benchmarks/reskd_embedded.py"


def main() -> None:
    """Trains what is missing, prints the table, replaces its rows in the results."""
    args, extra = embedded.arguments(__doc__, "runs/reskd_embedded")
    for seed in args.seeds:
        for run, (config, flags) in RUNS.items():
            embedded.train(args.workdir, seed, run, config, [*flags, *extra])
    rows = []
    for name, stage in ROWS.items():
        found = embedded.read(args.workdir, args.seeds, stage)
        rows += [embedded.row(f"reskd: {name}: {column}", values, form, "reskd_minik.py:demo", COMMAND,
                              args.seeds) for column, values, form in [
            ("top-1 (%)", [100 * m["val/top1"] for m in found], ".1f"),
            ("GMACs", [m["val/gmacs"] for m in found], ".3f"),
            ("params", [m["params"] for m in found], ",.0f")]]
        print(f"{name:52s} {rows[-3]['value']:>5s} % +- {rows[-3]['spread']}, {rows[-2]['value']} GMACs")
    embedded.replace_table(args.results, "reskd", rows)


if __name__ == "__main__":
    main()
