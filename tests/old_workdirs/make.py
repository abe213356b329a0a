"""How the miniature workdirs were made: run with the code of a released commit, from its root.

    git checkout e80b90b && python <this file> OUT

Each is a run of 4 steps that was stopped after 2 (its stage before the last is finished). `expected.json` has
what that code found in them, and what it ended with when it went on. Not run by tests: they read its output.
"""

import json
import os
import shutil
import sys

KEEP = ("config.json", "run.json", "classes.txt", "metrics.json", "metrics.jsonl", "metrics.csv")


def main(out: str) -> None:
    """Writes `OUT/<method>/` and `OUT/expected.json`."""
    sys.path.insert(0, os.getcwd())
    from configs import dynamic_k400, reskd_minik, va_red2_minik
    from effvid_jax import cli

    runs = {"reskd": (reskd_minik, "student"), "dynamic_inference": (dynamic_k400, ""),
            "va_red2": (va_red2_minik, "dynamic")}
    expected = {}
    for name, (module, last) in runs.items():
        config = module.get_config("tiny")
        if name == "reskd":
            config.run = "teacher,student"
        config.data.root = os.path.join(out, "benchmark")
        config.train.update(dict(num_steps=4, checkpoint_every_steps=2, log_every_steps=1))
        for one in (config, *config.stages.values()):
            if "options" in one.get("model", {}):
                one.model.options.width = 4
        if name == "dynamic_inference":
            config.model.exits.width, config.method.calibration_videos = 8, 16
        workdir = os.path.join(out, name)
        final = cli.train(config, workdir)
        folder = os.path.join(workdir, last) if last else workdir
        shutil.rmtree(os.path.join(folder, "checkpoints", "4"))
        expected[name] = {"at2": cli.eval(None, workdir), "final": final}
        for parent, _, files in os.walk(workdir):
            for file in files:
                if "checkpoints" not in parent and file not in KEEP:
                    os.remove(os.path.join(parent, file))
    with open(os.path.join(out, "expected.json"), "w") as f:
        json.dump(expected, f, indent=1, sort_keys=True)


if __name__ == "__main__":
    main(sys.argv[1])
