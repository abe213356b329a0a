"""Plain training on your own clips: a folder per class, no annotation file.

    python main.py --config=configs/supervised_folder.py --config.data.root=my_videos --workdir=runs/mine

`my_videos/<class>/*.mp4` (a share of `config.data.val_share` of every class is held out, by seed), or
`my_videos/train/<class>/*.mp4` and `my_videos/val/<class>/*.mp4`. Fine-tuning from imported weights:

    python -m effvid_jax.torch_import --backbone tsm_resnet50 --checkpoint tsm.pth --out runs/imported
    python main.py --config=configs/supervised_folder.py --config.data.root=my_videos \
        --config.init.checkpoint=runs/imported --config.init.skip=fc/ --workdir=runs/mine

`:small` trains a small network of the same family on 64 pixels, for a CPU. Recipe: ours, TSM's shortened.
"""

from configs.recipes import base, embedded, reskd


def get_config(arg: str = ""):
    """Arguments: tiny, demo, small, backbone, resolution."""
    args = base.parse_arg(arg, tiny=False, demo=False, small=False, backbone="tsm_resnet50",
                            resolution=224)
    config = reskd.supervised_tsn("folder", args.backbone, args.resolution)
    return embedded.finish(reskd.folder(config, args), args)
