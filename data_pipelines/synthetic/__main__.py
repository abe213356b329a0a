"""`python -m data_pipelines.synthetic --out=DIR`; see `benchmark.py`."""

from data_pipelines.synthetic.benchmark import main
from data_pipelines.tools import run_tool

run_tool(main)
