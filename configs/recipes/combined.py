"""Recipe of the combination: ResKD's student of a data set, with exits and gated convolutions. Ours.

Clips, rates, lengths and teacher are those of `reskd.py`; exits those of `dynamic_inference.py`, gates those
of VA-RED2 from a trained static network (`va_red2.py`): here they come in while the student trains.
"""

from __future__ import annotations

import dataclasses

from configs.recipes import base, dynamic_inference, embedded, reskd
from effvid_jax.errors import UserError
from effvid_jax.methods.combined import Combined
from effvid_jax.methods.schedule import PARTS

ARGUMENTS = dict(tiny=False, demo=False, parts="+".join(PARTS), resolution=112, scheme="unified",
                 order="student_first", distill="both")
# When parts come in, in shares of the run.
ORDERS = {
    "student_first": dict(exits_from=0.3, exits_ramp=0.1, gates_from=0.4, gates_ramp=0.1),
    "exits_first": dict(gates_from=0.4, gates_ramp=0.1),  # exits from the first step on
    "together": {},
}
# Gates that disturb the network as little as they can when they come in, as in `va_red2.from_static`. They
# have half of a run to close, so they are told how far, and pushed until they do.
GATES = dict(efficiency_weight=5.0, target=0.7, beta_reduced=0.5, cheap_scale=0.0)
# Beside gates: at its full weight the teacher holds gates open with ten times what the answers and the cost
# together pull with, and nothing closes.
TEACHER_BESIDE_GATES = 0.1
BUDGET = {False: 0.5, True: 0.35}  # of full inference with all gates open: without gates, and with them


def recipe(dataset_name: str, supervised, args, num_epochs: int, **more):
    """The config of one data set, with teacher and baseline as stages.

    Args:
        dataset_name, supervised, num_epochs: see `reskd.reskd`.
        args: parsed arguments: those of `ARGUMENTS`, backbone and teacher.
        more: further arguments of `reskd.reskd`.

    Raises:
        UserError: unknown parts or order.
    """
    parts = tuple(filter(None, args.parts.split("+")))
    if unknown := [part for part in parts if part not in PARTS]:
        raise UserError(f"config argument parts={args.parts!r}: {unknown[0]!r} is unknown; expected some of "
                        f"{', '.join(PARTS)}, joined by '+'.")
    if args.order not in ORDERS:
        raise UserError(f"config argument order={args.order!r}: expected one of {', '.join(ORDERS)}.")
    for name, part in (("scheme", "exits"), ("teacher", "reskd"), ("distill", "reskd")):
        if part not in parts:
            base.refuse(args, f"parts={args.parts}, without {part}", name)

    def last(config):
        _combine(config, args, parts)

    config = reskd.reskd(dataset_name, supervised, args, num_epochs, last=last, **more)
    config.name = config.name.replace("reskd", "combined", 1)
    if args.demo:  # the plain network is trained as long as the student
        steps = config.stages.baseline.train
        del steps["num_steps"]
        if not steps:
            del config.stages.baseline["train"]
    if "reskd" not in parts:
        others = [stage for stage in config.run.split(",") if stage and stage != "teacher"]
        config.run = ",".join(others) if others != ["student"] else ""
    return config


def _combine(config, args, parts) -> None:
    """What the student of `reskd.reskd` has beside it."""
    small = any(args.get(size) for size in ("tiny", "demo", "small"))
    order = {name: value for name, value in ORDERS[args.order].items() if name.partition("_")[0] in parts}
    method = dataclasses.asdict(Combined.Settings(parts=parts, **GATES))
    of_reskd = {name: value for name, value in config.method.items() if name != "name"}
    config.method = Combined.Settings(**(method | of_reskd | order)).to_config()
    config.init.skip = "|".join(filter(None, [config.init.skip, _NEW, "exits" in parts and "(^|/)fc/"]))
    if "gates" in parts:
        if "reskd" in parts:
            config.method.weight *= TEACHER_BESIDE_GATES
        config.optim.groups = "late_gates" if order.get("gates_from") else "gates"
    if "exits" in parts:
        config.model.exits = dynamic_inference.exits(config.data.num_frames, args.scheme, "online")
        config.data.calib_share = 0.05
        config.method.budget = BUDGET["gates" in parts]
        if small:
            dynamic_inference.small_exits(config)
            config.data.calib_share = 0.15
            config.method.calibration_videos = 500
    if args.demo:
        config.train.num_steps = 1000  # after 500 exits and gates that come in late have learned little
        config.note = (
            f"demo: {' + '.join(parts) or 'the plain network'} on the embedded benchmark (16 classes of "
            f"synthetic clips): {embedded.small(224)} pixels stand for 224, {embedded.small(112)} for 112, "
            f"small networks of the same families, {config.train.num_steps} steps. Its numbers compare with "
            f"each other only.")


# What a plain network to start from does not have.
_NEW = "^head_|^judge_|^lift|gate|cheap_|^stopping/|^schedule/"
