"""What people look at.

The report of a run (`report.py`), the project's own results (`results.py`: docs/results.csv and the
tables made from it), the mean over the splits of a data set (`mean_of_splits.py`).
"""
