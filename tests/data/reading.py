"""Reading batches in tests."""

import itertools

import numpy as np

from data_pipelines import make_pipeline


def take(count, config, split="train", **arguments):
    pipeline = make_pipeline(config, split, **arguments)
    batches = list(itertools.islice(pipeline, count))
    pipeline.close()
    return batches


def assert_equal(ours, expected):
    assert len(ours) == len(expected)
    for a, b in zip(ours, expected, strict=True):
        assert a.keys() == b.keys()
        for key in a:
            np.testing.assert_array_equal(a[key], b[key], err_msg=key)


def count_opened(pipeline):
    """Returns a list to which the index of every clip is added that the pipeline opens."""
    opened, read = [], pipeline.source.open
    pipeline.source.open = lambda index: opened.append(index) or read(index)
    return opened
