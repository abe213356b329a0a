"""What a network costs: multiply-adds per layer, by each paper's own rules (`python -m effvid_jax.cost`).

`counting.py` counts by tracing shapes, without compiling; `tables.py` sets our figures beside the papers'
(docs/cost.md).
"""

from effvid_jax.cost.counting import (
    CONVENTIONS,
    Cost,
    Layer,
    check_resolution,
    count,
    gmacs,
    main,
    parameters_without_values,
    table,
)

__all__ = ["CONVENTIONS", "Cost", "Layer", "check_resolution", "count", "gmacs", "main",
           "parameters_without_values", "table"]
