"""OCSampler on ActivityNet: a MobileNetV2 at 128 pixels chooses 6 of 10 frames, a ResNet-50 answers.

    python -m effvid_jax.torch_import --backbone resnet50 --checkpoint resnet50.pth --out runs/r50
    python main.py --config=configs/ocsampler_actnet.py --config.stages.classifier.init.checkpoint=runs/r50 \
        --workdir=runs/ocsampler_actnet

trains the classifier (the FrameExit config of this data set), then the sampler. With a classifier that is
there: `--config.run= --config.method.classifier=runs/frameexit_actnet`. Published (mAP, GFLOPs):
77.2 / 25.8, `:chosen=5` 76.9 / 21.7. `:demo` and `:tiny` train small networks on the embedded benchmark of
long clips. Recipe: as released but for the sampler's bilinear input, see `configs/recipes/frameexit.py`.
"""

from configs.recipes import frameexit


def get_config(arg: str = ""):
    """Arguments: tiny, demo, small, backbone, frames, chosen, sampler."""
    return frameexit.sampler("actnet", arg)
