"""Weights of PyTorch files as ours, without PyTorch (`python -m effvid_jax.torch_import`).

`files.py` reads `.pth` and `.safetensors` (`plain_pickle.py` executes nothing; `other_files.py` says what
another file is), `shards.py` those in several files, `loading.py` finds the state dict without wrappers'
prefixes, `naming.py` knows how each code base names its modules, `conversion.py` puts arrays into our layout,
`pretrained.py` takes the files that installed packages have, `whole.py` those of methods of several networks.
"""

from effvid_jax.torch_import.conversion import (
    ImportMismatch,
    Report,
    convert,
    convert_with_report,
    count_classes,
    format_report,
    main,
)
from effvid_jax.torch_import.loading import load_torch_state
from effvid_jax.torch_import.naming import CONTAINERS
from effvid_jax.torch_import.pretrained import pretrained

__all__ = ["CONTAINERS", "ImportMismatch", "Report", "convert", "convert_with_report", "count_classes",
           "format_report", "load_torch_state", "main", "pretrained"]
