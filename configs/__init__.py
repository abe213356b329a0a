"""One file per benchmark, `<paper>_<data set>.py`.

What they share: `common.py` (every field, data sets), a recipe per paper (`reskd.py`, `dynamic.py`,
`vared2.py`), and `embedded.py` (`:tiny` and `:demo`).
"""
