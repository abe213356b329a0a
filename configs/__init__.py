"""One file per benchmark; `common.py` holds what they share."""
