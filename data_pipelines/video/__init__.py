"""One video's frames by number.

Readers (`reader.py`) of a video file (`video_file.py`), a folder of pictures, an array or a record
(`decode.py`, `records.py`).
"""
