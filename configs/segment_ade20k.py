"""Segmentation with VA-RED2 on SceneParse150 (ADE20K's 150 classes): channels computed as each image needs.

    python main.py --config=configs/segment_ade20k.py --workdir=runs/ade20k
    python main.py --config=configs/segment_ade20k.py:static,decoder=ppm --workdir=...
    python main.py --mode=eval --workdir=runs/ade20k --config.segmentation.test_scales=0.5,0.75,1.0

Paper: Table 11. Dilated ResNet-18, 10.6 GMACs static at 31.2 mean IoU, 7.8 dynamic at 31.3. `:demo` and
`:tiny` train both on scenes made by code, with a small network. `:from_static` with
`--config.init.checkpoint=DIR` starts the dynamic network from a static one. Own images: data.source='masks',
see docs/data.md.
"""

from configs.recipes import segmentation


def get_config(arg: str = ""):
    """Arguments: tiny, demo, static, decoder, backbone, search_space, resolution, from_static."""
    return segmentation.recipe(arg)
