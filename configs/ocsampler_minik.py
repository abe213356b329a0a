"""OCSampler on Mini-Kinetics: a MobileNetV2 at 128 pixels chooses 6 of 10 frames, a ResNet-50 answers.

    python -m effvid_jax.torch_import --backbone resnet50 --checkpoint resnet50.pth --out runs/r50
    python main.py --config=configs/ocsampler_minik.py:chosen=5 --workdir=runs/ocsampler_minik \
        --config.stages.classifier.init.checkpoint=runs/r50

trains the classifier (the FrameExit config of this data set), then the sampler. With a classifier that is
there: `--config.run= --config.method.classifier=runs/frameexit_minik`. Published (top-1, GFLOPs):
`:chosen=5` 73.7 / 21.6, `:chosen=4` 72.9 / 17.5. `:demo` and `:tiny` train small networks on the embedded
benchmark of long clips. Recipe: as released but for the sampler's bilinear input, see
`configs/recipes/frameexit.py`.
"""

from configs.recipes import frameexit


def get_config(arg: str = ""):
    """Arguments: tiny, demo, small, backbone, frames, chosen, sampler."""
    return frameexit.sampler("minik", arg)
