"""What benchmarks share.

`base.py` has every field and the data sets, `embedded.py` makes `:tiny` and `:demo`; then a recipe per
paper, named as its method in `effvid_jax/methods/`.
"""
