"""One file per benchmark, `<paper>_<data set>.py`, to be given to `--config`; `recipes/` has the rest."""
