"""The embedded benchmark, real mp4 files made by code (`python -m data_pipelines.synthetic --out=DIR`).

`drawing.py` says what the clips show, `benchmark.py` writes the files.
"""

from data_pipelines.synthetic.benchmark import (
    Benchmark,
    build,
    contact_sheet,
    ensure_built,
    made_clips,
    main,
    make_odd_files,
    write_video,
)
from data_pipelines.synthetic.drawing import check_params, class_names, default_params, make_clip

__all__ = ["Benchmark", "build", "check_params", "class_names", "contact_sheet", "default_params",
           "ensure_built", "made_clips", "main", "make_clip", "make_odd_files", "write_video"]
