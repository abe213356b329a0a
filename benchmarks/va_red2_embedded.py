"""VA-RED2 on the embedded benchmark: the shape of the paper's Tables 1, 7, 9 and 10, over three seeds.

    python benchmarks/va_red2_embedded.py --workdir runs/va_red2_embedded --seeds 0,1,2 --frames 8,16

Per seed: a static network, and from its weights, with as many further steps each, the static network itself
(the control that a fair comparison needs), gates with search space 2 and 3, gates on time or channels alone,
with half and without the efficiency loss, with 1x1 cheap operations, and the two baselines: channel gating,
and pruning at the share that this seed's gates compute. With 16 frames every network starts from its own one
of 8 frames, whose arrays fit, and gets the same number of steps on top. A run that is finished is not trained
again; `--rows` trains some of the rows, `--collect` none; what is reported are the rows of which all seeds
are finished. They go to `docs/results.csv`.
"""

from __future__ import annotations

import os

import embedded

CONFIG = "va_red2_minik.py:demo"
COMMAND = "python benchmarks/va_red2_embedded.py"
FIRST, CONTROL, GATES, PRUNING = "start", "static", "search space 2", "pruning"
STEPS = {FIRST: 400, 8: 400, 16: 80}
ROWS = {  # name: (arguments of the config, flags)
    FIRST: ("static", []),  # what all others start from
    CONTROL: ("static", []),
    GATES: ("", []),
    "search space 3": ("search_space=3", []),
    "time only": ("", ["--config.method.channel=False"]),
    "channels only": ("", ["--config.method.temporal=False"]),
    "half the efficiency loss": ("", ["--config.method.efficiency_weight=0.75"]),
    "no efficiency loss": ("", ["--config.method.efficiency_weight=0.0"]),
    "1x1 cheap operations": ("", ["--config.method.cheap_kernel=1"]),
    PRUNING: ("baseline=pruning", []),
    "channel gating (CGNet)": ("baseline=cgnet", []),
}


def folder(frames: int, name: str) -> str:
    """Of a row's run, below the seed's."""
    return f"frames{frames}/" + "".join(c if c.isalnum() else "_" for c in name)


def train(workdir: str, seed: int, frames: int, name: str, extra) -> None:
    """One run, and those that it starts from."""
    argument, flags = ROWS[name]
    config = ",".join(filter(None, [CONFIG, argument, f"frames={frames}"]))
    flags = ["--config.run=", f"--config.train.num_steps={STEPS[FIRST if name == FIRST else frames]}", *flags]
    if name != FIRST:
        origin = folder(8, FIRST if frames == 8 else name)
        train(workdir, seed, 8, FIRST if frames == 8 else name, extra)
        flags.append(f"--config.init.checkpoint={os.path.join(workdir, f'seed{seed}', origin)}")
        if frames != 8:
            flags.append("--config.init.skip=")
    if name == PRUNING:
        train(workdir, seed, frames, GATES, extra)
        (gated,) = embedded.read(workdir, [seed], folder(frames, GATES))
        flags.append(f"--config.method.keep={gated['val/computed']:.4f}")
    embedded.train(workdir, seed, folder(frames, name), config, [*flags, *extra])


def main() -> None:
    """Trains what is missing, prints the table, replaces its rows in the results."""
    def more(parser):
        parser.add_argument("--frames", default="8,16")
        parser.add_argument("--rows", default="", help="comma-separated beginnings of names; all by default")

    args, extra = embedded.arguments(__doc__, "runs/va_red2_embedded", more)
    wanted = [name for name in ROWS if name.startswith(tuple(args.rows.split(",")))]
    for seed in () if args.collect else args.seeds:
        for frames in map(int, args.frames.split(",")):
            for name in (n for n in wanted if frames == 8 or n != FIRST):
                train(args.workdir, seed, frames, name, extra)
    rows = []
    for frames in (8, 16):
        static = embedded.read(args.workdir, args.seeds, folder(frames, CONTROL))
        for name, (argument, _) in ROWS.items():
            if name == FIRST:
                continue
            found = embedded.read(args.workdir, args.seeds, folder(frames, name))
            if len(found) < len(args.seeds) or len(static) < len(args.seeds):
                print(f"{frames} frames, {name}: not finished")
                continue
            columns = {
                "top-1 (%)": ([100 * m["val/top1"] for m in found], ".1f"),
                "against static (points)": ([100 * (m["val/top1"] - s["val/top1"])
                                             for m, s in zip(found, static)], "+.1f"),
                "GMACs (10⁻³)": ([1e3 * m["val/gmacs"] for m in found], ".1f"),
                "least": ([1e3 * m.get("val/gmacs_min", m["val/gmacs"]) for m in found], ".1f"),
                "most": ([1e3 * m.get("val/gmacs_max", m["val/gmacs"]) for m in found], ".1f"),
                "saved (%)": ([100 * (1 - m["val/gmacs"] / s["val/gmacs"])
                               for m, s in zip(found, static)], ".1f")}
            config = ",".join(filter(None, [CONFIG, argument, f"frames={frames}"]))
            made = [embedded.row(f"va_red2: {frames} frames, {name}: {column}", values, form, config,
                                 COMMAND, args.seeds) for column, (values, form) in columns.items()]
            rows += made
            print(f"{frames} frames, {name}: " + "; ".join(
                f"{column} {r['value']} +- {r['spread'] or 0}" for column, r in zip(columns, made)))
    embedded.replace_table(args.results, "va_red2", rows)


if __name__ == "__main__":
    main()
