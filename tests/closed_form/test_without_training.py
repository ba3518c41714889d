"""The one call from a fine-tuned model to a smaller one without training."""

import copy
import json
import subprocess
import sys
import threading

import numpy as np
import paddle
import pytest
from paddle import nn

import ofa_slim
from families import FAMILIES, inputs
from ofa_slim import Convert, load_subnet, supernet
from ofa_slim.base.copies import copied
from ofa_slim.closed_form import Calibration, measure_curves, repair, statistics
from ofa_slim.errors import CalibrationError, ConfigError, ExportError, SearchError

SHAPES = [[2, 9]]


def loader(batches=4):
    return [inputs("bert", 8, 9, seed) for seed in range(batches)]


def weights(model):
    return {name: value.numpy().copy() for name, value in model.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(np.array_equal(value, other[name]) for name, value in one.items())


def test_the_smaller_model_keeps_the_budget_and_the_original_stays(tmp_path):
    model = FAMILIES["bert"]()
    model.train()
    before = weights(model)
    found = ofa_slim.compress(model, loader(), budget={"flops_ratio": 0.6}, input_shapes=SHAPES)
    report = found.report
    assert report.costs["flops_ratio"] <= 0.6 < 1.0 == report.original_costs["flops_ratio"]
    assert report.divergence[1] < report.divergence[0]
    assert report.rows == 32
    assert all(one.after <= one.before for one in report.errors)
    assert set(report.seconds) == {"statistics", "order", "curves", "allocation", "repair"}
    assert f"encoder.0.ffn: 24 -> {report.config['encoder.0.ffn']}" in str(report)
    assert list(found.model(**inputs("bert")).shape) == list(model(**inputs("bert")).shape)
    assert model.training
    assert same(before, weights(model))
    found.save(tmp_path / "small")
    again = load_subnet(tmp_path / "small", FAMILIES["bert"]())
    assert same(weights(found.model), weights(again))
    assert json.loads((tmp_path / "small" / "report.json").read_text())["config"] == dict(report.config)


def test_all_limits_of_a_budget_are_kept_and_no_size_is_given_away():
    model, both = FAMILIES["bert"](), {"flops_ratio": 0.6, "params_ratio": 0.8}
    found = ofa_slim.compress(model, loader(), budget=both, input_shapes=SHAPES)
    assert all(found.report.costs[key] <= most for key, most in both.items())
    alone = [ofa_slim.compress(model, loader(), budget={key: both[key]}, input_shapes=SHAPES) for key in both]
    within = [one for one in alone if all(one.report.costs[key] <= most for key, most in both.items())]
    assert [one.report.config for one in within] == [found.report.config], "the looser limit changes nothing"


def test_a_budget_is_limits_that_can_be_kept():
    model = FAMILIES["bert"]()
    for budget in ({}, 0.5):
        with pytest.raises(SearchError, match="limits are needed"):
            ofa_slim.compress(model, loader(), budget=budget)
    with pytest.raises(SearchError, match="no cost 'milliseconds'"):
        ofa_slim.compress(model, loader(), budget={"milliseconds": 3})
    with pytest.raises(CalibrationError, match=r"have params \d+, flops_ratio 0.*, more than the budget"):
        ofa_slim.compress(model, loader(), budget={"params": 10, "flops_ratio": 0.9}, input_shapes=SHAPES)


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([], "gave no batch"),
        (loader(1), "8 rows; at least 16"),
        ([{"pixel_values": paddle.ones([16, 3])}], "does not run on the calibration batches"),
    ],
)
def test_loaders_that_cannot_serve_leave_the_model_alone(batches, message):
    model = FAMILIES["bert"]()
    before = weights(model)
    with pytest.raises(CalibrationError, match=message):
        ofa_slim.compress(model, batches, budget={"flops_ratio": 0.6})
    assert same(before, weights(model))


def test_supernets_and_training_are_refused():
    model = FAMILIES["bert"]()
    with pytest.raises(ConfigError, match="is None or"):
        ofa_slim.compress(model, loader(), budget={"flops_ratio": 0.6}, training="supernet")
    with pytest.raises(ExportError, match="compress needs a plain model"):
        ofa_slim.compress(
            Convert(supernet(expand_ratio=[1.0, 0.5])).convert(model), loader(), budget={"flops_ratio": 0.6}
        )


def test_a_decorated_model_is_compressed_as_a_plain_one_and_stays_decorated():
    plain, decorated = FAMILIES["bert"](), FAMILIES["bert"]()
    decorated.set_state_dict(plain.state_dict())
    decorated = paddle.jit.to_static(decorated, full_graph=True)
    decorated(**inputs("bert", 8, 9, 0))  # leaves a traced program
    program = decorated.forward
    found = [ofa_slim.compress(model, loader(), budget={"flops_ratio": 0.6}) for model in (plain, decorated)]
    assert found[0].report.config == found[1].report.config
    assert same(*(weights(one.model) for one in found))
    assert decorated.forward is program


def test_orders_and_repairs_see_the_layers_of_decorated_models():
    plain = FAMILIES["bert"]()
    small = FAMILIES["bert"]()
    small.set_state_dict(plain.state_dict())
    small = ofa_slim.compress(small, loader(), budget={"flops_ratio": 0.6}).model
    found = []
    for decorate in (lambda model: model, lambda model: paddle.jit.to_static(model, full_graph=True)):
        original, cut = decorate(copy.deepcopy(plain)), decorate(copy.deepcopy(small))
        moments = statistics(original, Calibration(original, loader()))
        curves = measure_curves(original, Calibration(original, loader()), moments, moments.removals(original))
        found.append(([one.losses for one in curves], [one.after for one in repair(cut, original, loader())]))
    assert found[0] == found[1]


class Guarded(nn.Layer):
    """A model with an attribute that cannot be copied."""

    def __init__(self):
        super().__init__()
        self.net = FAMILIES["bert"]()
        self.lock = threading.Lock()

    def forward(self, input_ids, token_type_ids=None):
        with self.lock:
            return self.net(input_ids, token_type_ids)


def test_what_cannot_be_copied_the_smaller_model_shares():
    model = Guarded()
    before = weights(model)
    small = ofa_slim.compress(model, loader(), budget={"flops_ratio": 0.6}).model
    assert small.lock is model.lock
    assert small.net is not model.net
    assert same(before, weights(model))
    assert sum(one.size for one in small.parameters()) < sum(one.size for one in model.parameters())


def test_a_failing_copy_of_a_layer_is_no_reason_to_share_it():
    class Whole(nn.Layer):
        def __deepcopy__(self, memo):
            raise TypeError("one of a kind")

    with pytest.raises(TypeError, match="one of a kind"):
        copied(nn.Sequential(nn.Linear(2, 2), Whole()))


@pytest.mark.slow
def test_importing_the_package_imports_no_job():
    code = "import sys, ofa_slim; sys.exit(any(name.startswith('ofa_slim.job') for name in sys.modules))"
    subprocess.run([sys.executable, "-c", code], check=True)
