"""VA-RED2 on J-HMDB: boxes around people and what they do, with convolutions that compute what a clip needs.

    python main.py --config=configs/localise_jhmdb.py --workdir=runs/jhmdb
    python main.py --config=configs/localise_jhmdb.py:static,backbone=i3d_tp --workdir=runs/jhmdb_i3d

Paper: Table 8. I3D: frame-mAP 44.8 % at 43.9 GMACs static, 47.2 % at 21.3 dynamic; X3D-M: 47.9 % at 5.75,
50.0 % at 4.85. `data/jhmdb` is the released data set: Rename_Images/, puppet_mask/, splits/. `:demo` and
`:tiny` train both networks on an embedded benchmark; I3D's, from scratch, finds few boxes there, and
docs/va_red2.md says what it takes. The dynamic network can start from the static one: `:from_static` with
`--config.init.checkpoint=DIR`. Other videos with boxes: `--config.data.source=boxes`, see docs/data.md.
"""

from configs.recipes import localisation


def get_config(arg: str = ""):
    """Arguments: tiny, demo, static, backbone, split, search_space, from_static."""
    return localisation.recipe(arg)
