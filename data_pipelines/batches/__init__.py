"""From videos to batches.

Which frames (`sampling.py`), which crop (`transforms.py`), one clip (`clips.py`), a batch
(`assembly.py`), many of them, restartable (`pipeline.py`); decoded frames kept in memory (`cache.py`).
"""
