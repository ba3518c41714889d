"""The one call from a fine-tuned model to a smaller one without training."""

import numpy as np
import pytest

from families import FAMILIES, inputs
from ofa_slim.errors import CalibrationError, SearchError
from ofa_slim.job.without_training import compress_without_training

SHAPES = [[2, 9]]


def loader(batches=4):
    return [inputs("bert", 8, 9, seed) for seed in range(batches)]


def test_the_smaller_model_keeps_the_budget_and_the_original_stays():
    model = FAMILIES["bert"]()
    before = {name: value.numpy().copy() for name, value in model.state_dict().items()}
    small, report = compress_without_training(model, loader(), {"flops_ratio": 0.6}, input_shapes=SHAPES)
    assert report.costs["flops_ratio"] <= 0.6 < 1.0 == report.original_costs["flops_ratio"]
    assert report.divergence[1] < report.divergence[0]
    assert all(one.after <= one.before for one in report.errors)
    assert set(report.seconds) == {"statistics", "order", "curves", "allocation", "repair"}
    assert list(small(**inputs("bert")).shape) == list(model(**inputs("bert")).shape)
    assert all(np.array_equal(value, model.state_dict()[name].numpy()) for name, value in before.items())


def test_a_budget_is_one_limit_that_can_be_kept():
    model = FAMILIES["bert"]()
    with pytest.raises(SearchError, match="one limit"):
        compress_without_training(model, loader(), {})
    with pytest.raises(SearchError, match="no cost 'milliseconds'"):
        compress_without_training(model, loader(), {"milliseconds": 3})
    with pytest.raises(CalibrationError, match="more than the budget"):
        compress_without_training(model, loader(), {"params": 10}, input_shapes=SHAPES)
