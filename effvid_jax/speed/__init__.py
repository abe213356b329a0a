"""Time.

`--mode=bench` (`bench.py`), early exits on the clock (`exit_bench.py`), how times are taken
(`timing.py`), memory that a process keeps (`host_memory.py`).
"""
