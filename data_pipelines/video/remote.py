"""Videos in object stores, `gs://bucket/clips`, `s3://bucket/clips`, through fsspec where that is installed.

Only what a user names is looked for there (`--video`, `--root`, a folder to check): a path within a list, or
an address within a file, is never followed.
"""

import os
import re

from data_pipelines.errors import DataError, VideoError

# Stores of files; addresses of the web are none.
_STORE = re.compile(r"(?:gs|gcs|s3|s3a|az|abfs|abfss|hdfs|webhdfs|file|memory)://")


def is_remote(path) -> bool:
    """Whether this is a path in a store."""
    return isinstance(path, str) and _STORE.match(path) is not None and not os.path.exists(path)


def content_of(path, name: str | None = None):
    """What can be opened as a video: the path itself, of one in a store the bytes there.

    Raises:
        VideoError: it is not there, or cannot be read.
        DataError: the package for this store is missing.
    """
    if not is_remote(path):
        return path
    system, inside = _system(path)
    try:
        return system.cat_file(inside)
    except FileNotFoundError:
        raise VideoError(name or path, "file does not exist") from None
    except Exception as error:  # every store has errors of its own
        raise VideoError(name or path, f"cannot be read ({_words(error)})") from None


def is_folder(path: str) -> bool:
    """Whether there is a folder of this path in a store."""
    system, inside = _system(path)
    try:
        return system.isdir(inside)
    except Exception as error:  # every store has errors of its own
        raise DataError(f"{path} cannot be read: {_words(error)}.") from None


def find(path: str, endings: tuple[str, ...]) -> list[str]:
    """Files with these endings: the file of this path, all below a folder, or all that a pattern matches.

    Returns:
        Their whole paths, sorted; [] if there is nothing.

    Raises:
        DataError: the store cannot be reached, or its package is missing.
    """
    system, inside = _system(path)
    try:
        if system.isfile(inside):
            return [path]
        found = system.glob(inside) if any(c in inside for c in "*?[") else [inside]
        files = [file for one in found for file in ([one] if system.isfile(one) else system.find(one))]
    except FileNotFoundError:
        return []
    except Exception as error:  # every store has errors of its own
        raise DataError(f"{path} cannot be read: {_words(error)}.") from None
    kept = (file for file in files if file.lower().endswith(endings)
            and not file.rsplit("/", 1)[-1].startswith("."))
    return sorted(dict.fromkeys(map(system.unstrip_protocol, kept)))


def _system(path: str):
    """(file system, path within it)."""
    try:
        import fsspec

        return fsspec.core.url_to_fs(path)
    except ImportError as error:
        raise DataError(f"{path}: {_words(error)}. Files of stores are read by fsspec and a package of the "
                        f"store: pip install fsspec gcsfs (gs://), s3fs (s3://).") from None
    except Exception as error:  # every store has errors of its own
        raise DataError(f"{path} cannot be reached: {_words(error)}.") from None


def _words(error: Exception) -> str:
    return " ".join((str(error) or type(error).__name__).split())[:200]
