"""Weights of PyTorch files as ours, without PyTorch (`python -m effvid_jax.torch_import`).

`files.py` reads `.pth` and `.safetensors` (`plain_pickle.py` executes nothing), `naming.py` knows how each
code base names its modules, `conversion.py` puts arrays into our layout.
"""

from effvid_jax.torch_import.conversion import (
    CONTAINERS,
    ImportMismatch,
    Report,
    convert,
    convert_with_report,
    count_classes,
    format_report,
    load_torch_state,
    main,
)

__all__ = ["CONTAINERS", "ImportMismatch", "Report", "convert", "convert_with_report", "count_classes",
           "format_report", "load_torch_state", "main"]
