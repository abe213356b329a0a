"""What a teacher says of training clips that come again, computed once: `config.method.teacher_store`.

    python main.py --config=configs/reskd_minik.py --workdir=runs/student \\
        --config.method.teacher=runs/teacher --config.method.teacher_bn=running \\
        --config.data.fixed_views=4 --config.method.teacher_store=data/store

A large teacher (V-JEPA2, VideoMAE, a ResNet-152 on 224 pixels) costs many times its student, and says the
same of the same clip. Each video then has `data.fixed_views` clips (frames, crop, flip) that come in turn,
one a pass; the teacher sees each of them once, before the first step, and steps read float16 rows from the
folder. What is stored is what the loss reads: class scores (K,) for 'clip_kl', means over space (T, C) for
'frame_kl', maps (T, h, w, C) for the others. What it costs in accuracy is measured in docs/reskd.md. Ours.

The folder is of one teacher and one set of clips (`teacher.json` in it says which), and may be shared by many
students: those of other losses have folders of their own in it. Files are written whole, so that an
interrupted command goes on; of several processes each computes its share.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import shutil

import jax
import numpy as np

from data_pipelines import StoredRows, StoredTargets, VideoError, decoding_threads, in_order
from effvid_jax import console, sharding, writers
from effvid_jax.errors import UserError

FIELD = "teacher"  # of a batch
_KINDS = {"clip_kl": "scores", "frame_kl": "frames"}  # of a row, by loss; "maps" for the others


def kind_of(loss: str) -> str:
    """What of the teacher a loss reads: 'scores', 'frames' or 'maps'."""
    return _KINDS.get(loss, "maps")


def row_of(kind: str, logits, out):
    """A teacher's answer -> what is stored of it, (B, ...). Traced."""
    if kind == "scores":
        return logits
    features = out["features"]
    return features.mean(axis=(-3, -2), keepdims=True) if kind == "frames" else features


def answer_of(kind: str, rows) -> dict:
    """What is stored -> named features as the distances read them. Traced."""
    rows = rows.astype(np.float32)
    return {"scores": rows} if kind == "scores" else {"features": rows}


def check(settings, config) -> None:
    """Raises UserError for settings under which a teacher would say something else in every pass."""
    if not settings.teacher_store:
        return
    where = f"config.method.teacher_store={settings.teacher_store!r} keeps a teacher's answers about clips"
    if not config.data.get("fixed_views", 0):
        raise UserError(f"{where}, and with config.data.fixed_views=0 no clip comes twice: say how many "
                        f"clips a video has, such as --config.data.fixed_views=4.")
    if settings.teacher_bn != "running":
        raise UserError(f"{where}, but with config.method.teacher_bn='batch' they depend on the other "
                        f"clips of a batch: add --config.method.teacher_bn=running.")
    for name in ("mixup", "cutmix"):
        if config.train.get(name, 0.0):
            raise UserError(f"{where}, but config.train.{name}={config.train[name]} makes new ones of them: "
                            f"leave one of the two out.")


class Store:
    """The rows of a teacher.

    Args:
        folder: `config.method.teacher_store`.
        loss: `config.method.loss`.
        look: (variables of the teacher, clips uint8 (B, T, H, W, 3)) -> (logits, named features). Traced.
        variables: of the teacher, on the host.
        config: of the student: `data` and `method` are read.
    """

    def __init__(self, folder: str, loss: str, look, variables, config):
        self.kind, self._variables, self._data = kind_of(loss), variables, config.data
        self.folder, self._root = os.path.join(folder, self.kind), folder
        self._look = jax.jit(lambda v, video: row_of(self.kind, *look(v, video)).astype(StoredRows.dtype))
        data = config.data
        clips = jax.ShapeDtypeStruct((1, data.num_frames, data.crop, data.crop, 3), np.uint8)
        self.shape = jax.eval_shape(self._look, variables, clips).shape[1:]
        self._sees = {name: config.method[name] for name in ("teacher_resolution", "teacher_dtype")}

    def identity(self, split) -> dict:
        """What the rows depend on: the teacher, how it sees, and the clips."""
        digest = hashlib.sha256()
        for path, x in jax.tree.leaves_with_path(self._variables):
            digest.update(jax.tree_util.keystr(path).encode())
            digest.update(np.ascontiguousarray(x).tobytes())
        return {"teacher": digest.hexdigest(), **self._sees, **split.clips_identity()}

    def check(self, split) -> None:
        """Raises UserError for a folder of another teacher or other clips; writes down whose it is.

        Called before anything is computed.
        """
        path, ours = os.path.join(self._root, "teacher.json"), self.identity(split)
        with writers.writing(self._root):
            os.makedirs(self._root, exist_ok=True)
        if os.path.exists(path):
            theirs = writers.read_json(path, "Remove the folder, and it is computed again.")
            differ = [name for name in ours if ours[name] != theirs.get(name)]
            if differ:
                name = differ[0]
                what = {"teacher": "another teacher", "names": "other videos"}.get(
                    name, f"{name}={theirs.get(name)!r}, not {ours[name]!r}")
                raise UserError(f"config.method.teacher_store={self._root!r} is of {what}: name another "
                                f"folder, or remove this one.")
        elif jax.process_index() == 0:
            writers.write_text(path, json.dumps(ours, indent=2))

    def targets(self, targets, split) -> StoredTargets:
        """The targets of a split with the rows beside them, which are computed where they are missing.

        Raises:
            UserError: the disk cannot hold the rows, or float16 an answer.
            DataError: too many videos cannot be read.
        """
        rows = StoredRows(self.folder, len(split), self.shape)
        views = self._data.fixed_views
        files = list(rows.files(views))
        missing = {path: videos for _, videos, path in files if not os.path.exists(path)}
        if missing:
            self._check_space(rows, sum(map(len, missing.values())))
        # What is missing may differ between processes that do not start at once: whose a file is may not.
        index, count = jax.process_index(), jax.process_count()
        self._write(rows, [file for file in files[index::count] if file[2] in missing], files, split)
        if count > 1:
            from jax.experimental import multihost_utils

            multihost_utils.sync_global_devices("teacher_store")
        return StoredTargets(targets, FIELD, rows)

    def _check_space(self, rows: StoredRows, clips: int) -> None:
        needed = clips * rows.row_bytes
        shape = " x ".join(map(str, rows.shape))
        console.say(f"what the teacher says of a clip, {shape}, is stored in {self.folder}: "
                    f"{needed / 2**20:,.1f} MiB to write")
        free = shutil.disk_usage(self._root).free
        if needed > free:
            raise UserError(
                f"config.method.teacher_store={self._root!r} needs {needed / 2**30:,.1f} GiB and has "
                f"{free / 2**30:,.1f} free: lower config.data.fixed_views, choose another disk, or "
                f"config.method.loss='clip_kl' or 'frame_kl', which store class scores or a vector a frame.")

    def _write(self, rows: StoredRows, mine, files, split) -> None:
        if not mine:
            return
        mesh = sharding.own_mesh()
        variables, cut = sharding.replicate(self._variables, mesh), sharding.of_batch(mesh)
        data, count = self._data, jax.process_count()
        size = -(-data.batch_size // count // mesh.size) * mesh.size
        batch = np.zeros((size, data.num_frames, data.crop, data.crop, 3), np.uint8)

        def look(clips) -> np.ndarray:
            batch[:len(clips)] = clips
            return np.asarray(self._look(variables, jax.device_put(batch, cut)))[:len(clips)]

        total = sum(len(videos) for _, videos, _ in files)
        done = total - count * sum(len(videos) for _, videos, _ in mine)
        with console.bar(total, "teacher", "clip", initial=max(0, done), leave=False) as progress:
            for view, videos, path in mine:
                os.makedirs(os.path.dirname(path), exist_ok=True)
                found = np.full((len(videos), *self.shape), np.nan, rows.dtype)
                with contextlib.closing(self._clips(split, view, videos)) as clips:
                    while some := list(itertools.islice(clips, size)):
                        progress.update(count * len(some))
                        indices, seen = zip(*some)
                        for index, answer in zip(indices, look(seen), strict=True):
                            self._check_answer(answer, split.entry(index).name)
                            found[index - videos.start] = answer
                writers.write_bytes(path, rows.content(found))

    def _clips(self, split, view: int, videos: range):
        """(index, clip) of the videos that can be read, in order, read ahead; the others are counted."""
        def read(index: int):
            try:
                return split.fixed_clip(index, view)
            except VideoError as error:
                return error

        threads = max(1, decoding_threads(self._data.num_threads))
        with contextlib.closing(in_order(read, videos, threads, 2 * threads)) as clips:
            for index, clip in zip(videos, clips, strict=True):
                if isinstance(clip, VideoError):
                    split.broken.add([(index, clip.name, clip.reason)])
                else:
                    yield index, clip

    def _check_answer(self, answer: np.ndarray, name: str) -> None:
        if not np.isfinite(answer).all():
            raise UserError(f"the teacher's answer about {name} is not finite or beyond float16 (65504): "
                            f"config.method.teacher_store={self._root!r} cannot keep it.")
