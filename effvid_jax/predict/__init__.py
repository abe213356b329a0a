"""Answers for new videos: `--mode=predict --workdir=DIR --video=FILE_OR_FOLDER [--json]`, or from Python:

    predictor = Predictor("runs/demo")
    predictor("clip.mp4")["top5"]        # [{"label": "waving", "prob": 0.93}, ...]

Frames, crops and views are chosen as in evaluation, by the config that the network was trained with, so
every clip is an array of the same shape and the network is compiled once. Long videos are cut into windows,
and networks that can take frames one by one take a stream.
"""

from effvid_jax.predict.command import is_export, open_network, predict
from effvid_jax.predict.exported import Exported
from effvid_jax.predict.network import Network, Part, name_of
from effvid_jax.predict.restored import Predictor
from effvid_jax.predict.settings import Asked
from effvid_jax.predict.streams import Stream

__all__ = ["Asked", "Exported", "Network", "Part", "Predictor", "Stream", "is_export", "name_of",
           "open_network", "predict"]
