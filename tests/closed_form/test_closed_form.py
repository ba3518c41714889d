"""What closed forms must always do: orders, repair and allocation on small problems and tiny models."""

import copy
import itertools

import numpy as np
import paddle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from families import CLASSES, FAMILIES, inputs
from ofa_slim import OFA, Convert, dynabert_config, supernet
from ofa_slim.closed_form import (
    Calibration,
    Curve,
    allocate,
    measure_curves,
    obs_importance,
    reorder_by_obs,
    repair,
    repair_if_better,
    statistics,
)
from ofa_slim.closed_form.allocation import _between
from ofa_slim.closed_form.divergence import mean_divergence
from ofa_slim.closed_form.moments import Moments, damped
from ofa_slim.closed_form.obs import kept_rows, matrix_without, removal
from ofa_slim.errors import CalibrationError
from ofa_slim.export.cut import cut
from ofa_slim.importance import reorder_neuron_head
from ofa_slim.supernet.discover import full_space
from ofa_slim.supernet.paths import layer_at

SEEDS = st.integers(0, 2**16)


def loader(name, batches=4, rows=8):
    return [inputs(name, rows, 9, seed) for seed in range(batches)]


def weights(model):
    return {name: value.numpy().copy() for name, value in model.state_dict().items()}


def sliced(model, width=0.5):
    space, small = full_space(model), copy.deepcopy(model)
    cut(small, space, space.uniform(width))
    return small


def same(one, other):
    return all(np.array_equal(value, other[name]) for name, value in one.items())


def sweep_step_by_step(second, matrix, unit):
    """Hassibi and Stork's updates as they stand in the paper."""
    inverse, matrix = np.linalg.inv(second), matrix.copy()
    left, removed, costs = list(range(len(matrix) // unit)), [], []
    while left:
        units = {number: slice(number * unit, (number + 1) * unit) for number in left}
        cost = {n: np.trace(matrix[s].T @ np.linalg.solve(inverse[s, s], matrix[s])) for n, s in units.items()}
        least = min(cost, key=cost.get)
        factor = inverse[:, units[least]] @ np.linalg.inv(inverse[units[least], units[least]])
        matrix, inverse = matrix - factor @ matrix[units[least]], inverse - factor @ inverse[units[least], :]
        left.remove(least)
        removed.append(least)
        costs.append(cost[least])
    return removed[::-1], np.concatenate([np.cumsum(costs)[::-1], [0.0]])


@settings(deadline=None, max_examples=5)
@given(seed=SEEDS, unit=st.sampled_from([1, 3]))
def test_blocked_removal_equals_the_updates_one_by_one(seed, unit):
    rng = np.random.default_rng(seed)
    count = 80 if unit == 1 else 25
    rows = rng.standard_normal((400, count * unit)) @ rng.standard_normal((count * unit, count * unit))
    matrix = rng.standard_normal((count * unit, 5))
    second = rows.T @ rows
    found = removal([(second, matrix, unit)], 0.01)
    order, errors = sweep_step_by_step(damped(second, 0.01), matrix, unit)
    np.testing.assert_array_equal(found.order, order)
    np.testing.assert_allclose(found.errors, errors, rtol=1e-6)


@settings(deadline=None, max_examples=10)
@given(seed=SEEDS)
def test_identity_moment_removes_the_smallest_rows(seed):
    matrix = np.random.default_rng(seed).standard_normal((40, 6))
    found = removal([(np.eye(40), matrix, 1)], 0.01)
    np.testing.assert_array_equal(found.order, np.argsort(-(matrix**2).sum(axis=1)))


@settings(deadline=None, max_examples=10)
@given(seed=SEEDS)
def test_duplicated_neurons_go_first_and_cost_nothing(seed):
    rng = np.random.default_rng(seed)
    half = rng.standard_normal((300, 12))
    rows = np.hstack([half, half])
    matrix = rng.standard_normal((24, 4))
    found = removal([(rows.T @ rows, matrix, 1)], 1e-9)
    assert {int(unit) % 12 for unit in found.order[:12]} == set(range(12))
    assert found.errors[12] < 1e-6 * found.errors[0]
    left = matrix_without(rows.T @ rows, matrix, kept_rows(found.order, 12, 1), 1e-9)
    np.testing.assert_allclose(rows @ left, rows @ matrix, atol=1e-4)


@settings(deadline=None, max_examples=10)
@given(seed=SEEDS, size=st.integers(0, 10))
def test_error_curve_is_the_error_of_the_refitted_matrix(seed, size):
    rng = np.random.default_rng(seed)
    rows, matrix = rng.standard_normal((200, 20)) @ rng.standard_normal((20, 20)), rng.standard_normal((20, 4))
    found = removal([(rows.T @ rows, matrix, 2)], 0.01)
    change = matrix_without(rows.T @ rows, matrix, kept_rows(found.order, size, 2), 0.01) - matrix
    error = np.sum((damped(rows.T @ rows, 0.01) @ change) * change)
    np.testing.assert_allclose(error, found.errors[size], rtol=1e-6, atol=1e-8 * found.errors[0])


@settings(deadline=None, max_examples=10)
@given(seed=SEEDS, rows=st.integers(1, 12), bias=st.booleans())
def test_fewer_rows_than_channels_still_give_an_order(seed, rows, bias):
    rng = np.random.default_rng(seed)
    moments = Moments(40)
    moments.add(paddle.to_tensor(1e3 * rng.standard_normal((rows, 40)).astype(np.float32)))
    moments.reduce()
    found = removal([(moments.second(bias), rng.standard_normal((40, 3)), 2)], 1e-4)
    np.testing.assert_array_equal(np.sort(found.order), np.arange(20))
    assert np.isfinite(found.errors).all()
    assert (np.diff(found.errors) <= 0).all()
    left = matrix_without(moments.second(bias), rng.standard_normal((40, 3)), kept_rows(found.order, 5, 2), 1e-4)
    assert np.isfinite(left).all()


@settings(deadline=None, max_examples=30)
@given(seed=SEEDS, rows=st.integers(1, 40), bias=st.booleans(), ridge=st.sampled_from([1e-6, 0.01, 1.0]))
def test_correction_never_increases_the_error_whatever_the_rank(seed, rows, bias, ridge):
    rng = np.random.default_rng(seed)
    inputs, errors = (rng.standard_normal((rows, size)).astype(np.float32) for size in (16, 3))
    inputs[:, 8:] = 0
    moments = Moments(16, 3)
    for part in np.array_split(np.arange(rows), 3):
        moments.add(paddle.to_tensor(inputs[part]), paddle.to_tensor(errors[part]))
    moments.reduce()
    change, shift = moments.correction(bias, ridge)
    assert np.isfinite(change).all()
    left = np.sum((errors - inputs @ change - (shift if bias else 0)) ** 2)
    assert left <= np.sum(errors**2) * (1 + 1e-5)
    np.testing.assert_allclose(moments.squared_after(change, shift), left, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_is_repaired_and_reordered(name):
    model = FAMILIES[name]()
    batches = loader(name)
    before = weights(model)
    reorder_neuron_head(model, *obs_importance(model, batches))
    if name not in ("mpnet", "ernie-layout"):  # their heads keep one order in all blocks
        found = Calibration(model, batches)
        removals = statistics(model, found).removals(model)
        for axis, one in removals.items():
            np.testing.assert_array_equal(np.sort(one.order), np.arange(len(one.order)), axis)
    assert not same(before, weights(model))
    small = sliced(model)
    untouched = weights(small)
    errors = repair(small, model, batches)
    assert all(one.after <= one.before * (1 + 1e-6) for one in errors)
    assert sum(one.after for one in errors) < sum(one.before for one in errors)
    fitted = {f"{one.matrix}.{kind}" for one in errors for kind in ("weight", "bias")}
    changed = {key for key, value in weights(small).items() if not np.array_equal(value, untouched[key])}
    assert changed <= fitted
    assert any(key.endswith("weight") for key in changed)


@pytest.mark.parametrize("name", ["bert", "gpt", "albert", "llama"])
def test_full_width_stays_as_it_is(name):
    model = FAMILIES[name]()
    twin = copy.deepcopy(model)
    assert all(one.before == 0 for one in repair(twin, model, loader(name)))
    assert same(weights(model), weights(twin))


def test_repair_brings_the_outputs_closer():
    model = FAMILIES["bert"]()
    small, held_back = sliced(model), inputs("bert", 32, 9, 77)
    before = float(((model(**held_back) - small(**held_back)) ** 2).mean())
    repair(small, model, loader("bert", 8))
    assert float(((model(**held_back) - small(**held_back)) ** 2).mean()) < before / 2


def test_half_the_blocks_are_repaired_towards_the_same_blocks():
    model = FAMILIES["bert"]()
    space, small = full_space(model), copy.deepcopy(model)
    cut(small, space, space.complete({**space.uniform(0.5), "encoder.depth": 2}))
    errors = repair(small, model, loader("bert"))
    assert len(errors) == 4
    assert all(one.after <= one.before for one in errors)


def test_two_runs_give_the_same_bits():
    model = FAMILIES["bert"]()
    found = []
    for _ in range(2):
        whole = copy.deepcopy(model)
        calibration = Calibration(whole, loader("bert"))
        moments = statistics(whole, calibration)
        removals = moments.removals(whole)
        curves = measure_curves(whole, calibration, moments, removals)
        reorder_by_obs(whole, removals)
        small = sliced(whole)
        repair(small, whole, calibration)
        found.append((weights(small), curves))
    assert same(found[0][0], found[1][0])
    assert found[0][1] == found[1][1]


def test_padding_does_not_count():
    model = FAMILIES["bert"]()
    plain = loader("bert", 3)
    for batch in plain:
        batch["input_ids"][batch["input_ids"] == 0] = 7
    padded = [
        {"input_ids": paddle.concat([batch["input_ids"], paddle.zeros([8, 5], "int64")], axis=1)} for batch in plain
    ]
    one, other = (statistics(model, Calibration(model, batches)) for batches in (plain, padded))
    for path, moments in one.moments.items():
        assert moments.rows == other.moments[path].rows == 3 * 8 * 9
        np.testing.assert_allclose(moments.second(False), other.moments[path].second(False), rtol=1e-3, atol=1e-3)


def test_labels_are_not_read():
    model = FAMILIES["bert"]()
    labelled = [{**batch, "labels": paddle.full([8], CLASSES + 5)} for batch in loader("bert")]
    for one, other in zip(obs_importance(model, labelled), obs_importance(model, loader("bert")), strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([], "gave no batch"),
        (loader("bert", 1, 3), "3 rows"),
        ([{"pixel_values": paddle.ones([16, 3])}], "does not run on the calibration batches"),
        ([("text",)], "without a tensor"),
    ],
)
def test_loaders_that_cannot_serve_leave_the_model_alone(batches, message):
    model = FAMILIES["bert"]()
    small = sliced(model)
    before = weights(small), weights(model)
    with pytest.raises(CalibrationError, match=message):
        repair(small, model, batches)
    with pytest.raises(CalibrationError, match=message):
        obs_importance(model, batches)
    assert same(before[0], weights(small))
    assert same(before[1], weights(model))


def test_a_batch_that_fails_later_leaves_the_model_alone():
    model = FAMILIES["bert"]()
    small = sliced(model)
    before = weights(small)
    batches = [*loader("bert"), {"input_ids": paddle.full([8, 9], 10_000)}]
    with pytest.raises(CalibrationError, match="batch 4"):
        repair(small, model, batches)
    assert same(before, weights(small))


def test_models_that_do_not_belong_together_are_refused():
    model = FAMILIES["bert"]()
    with pytest.raises(CalibrationError, match="same stacks"):
        repair(sliced(model), FAMILIES["ernie"](), loader("bert"))
    with pytest.raises(CalibrationError, match="more blocks"):
        repair(model, FAMILIES["bert"](num_hidden_layers=2), loader("bert"))
    with pytest.raises(CalibrationError, match="no stack of blocks"):
        obs_importance(paddle.nn.Linear(4, 4), [paddle.ones([16, 4])])


def test_curves_fall_to_zero_and_leave_the_model_alone():
    model = FAMILIES["bert"]()
    before = weights(model)
    calibration = Calibration(model, loader("bert"))
    moments = statistics(model, calibration)
    curves = measure_curves(model, calibration, moments, moments.removals(model))
    assert [curve.axis for curve in curves] == [f"encoder.{i}.{kind}" for i in range(3) for kind in ("heads", "ffn")]
    for curve in curves:
        assert curve.losses[-1] == 0
        assert list(curve.losses) == sorted(curve.losses, reverse=True)
    assert same(before, weights(model))


@settings(deadline=None, max_examples=30)
@given(seed=SEEDS)
def test_allocation_is_the_best_within_the_budget(seed):
    rng = np.random.default_rng(seed)
    prices = {name: int(rng.integers(1, 5)) for name in "abc"}
    curves = [Curve(name, (1, 2, 4, 8), (*np.sort(rng.random(3))[::-1].tolist(), 0.0)) for name in prices]

    def cost_of(sizes):
        return float(sum(prices[name] * size for name, size in sizes.items()))

    budget = float(rng.integers(sum(prices.values()), 8 * sum(prices.values()) + 1))
    found = allocate(curves, cost_of, budget)
    loss = {curve.axis: dict(zip(curve.sizes, curve.losses, strict=True)) for curve in curves}
    every = [{"a": a, "b": b, "c": c} for a in (1, 2, 4, 8) for b in (1, 2, 4, 8) for c in (1, 2, 4, 8)]
    # Costs are rounded up to whole buckets, so what fits only just may be passed over.
    within = budget - 3 * budget / 4000
    least = min((sum(loss[n][s] for n, s in one.items()) for one in every if cost_of(one) <= within), default=np.inf)
    assert cost_of(found) <= budget
    assert sum(loss[n][s] for n, s in found.items()) <= least + 1e-9


def test_costs_that_do_not_add_up_are_still_kept():
    curves = [Curve(name, (1, 2, 4), (2.0, 1.0, 0.0)) for name in "ab"]

    def cost_of(sizes):
        return float(sizes.get("a", 4) * sizes.get("b", 4)) ** 0.5

    assert cost_of(allocate(curves, cost_of, 2.5)) <= 2.5
    with pytest.raises(CalibrationError, match="more than the budget"):
        allocate(curves, cost_of, 0.5)


@settings(deadline=None, max_examples=30)
@given(seed=SEEDS, power=st.sampled_from([0.3, 0.6, 1.5, 3.0]))
def test_a_budget_is_used_up_where_costs_do_not_add_up(seed, power):
    """As a block's latency, whose parts save little alone and much together, or the other way round."""
    rng = np.random.default_rng(seed)
    sizes = (1, 2, 4, 8)
    prices = {name: int(rng.integers(1, 5)) for name in "abcd"}
    curves = [Curve(name, sizes, (*np.sort(rng.random(3))[::-1].tolist(), 0.0)) for name in prices]

    def cost_of(given):
        pairs = (
            given["a"] * prices["a"] + given["b"] * prices["b"],
            given["c"] * prices["c"] + given["d"] * prices["d"],
        )
        return float(sum(pair**power for pair in pairs))

    def loss_of(given):
        return sum(curve.losses[curve.sizes.index(given[curve.axis])] for curve in curves)

    whole, least = (cost_of(dict.fromkeys("abcd", size)) for size in (8, 1))
    budget = least + float(rng.uniform(0.05, 0.95)) * (whole - least)
    found = allocate(curves, cost_of, budget)
    every = [dict(zip("abcd", chosen, strict=True)) for chosen in itertools.product(sizes, repeat=4)]
    best = min(loss_of(one) for one in every if cost_of(one) <= budget)
    assert cost_of(found) <= budget
    assert loss_of(found) <= 1.5 * best + 0.1
    for name in "abcd":
        larger = [{**found, name: size} for size in sizes if size > found[name]]
        assert all(cost_of(one) > budget for one in larger)


def test_matrices_are_those_of_a_linear():
    model = FAMILIES["bert"]()
    for part in statistics(model, Calibration(model, loader("bert"))).parts:
        assert layer_at(model, part.matrix).weight.shape[0] == part.axis.size * part.unit


def test_repair_is_kept_only_where_held_back_rows_say_so():
    model = FAMILIES["bert"]()
    small = sliced(model)
    found = repair_if_better(small, model, loader("bert", 8))
    assert found.kept
    assert found.after < found.before
    whole = copy.deepcopy(model)  # it computes the same already, so nothing can be gained
    assert not repair_if_better(whole, model, loader("bert", 8)).kept
    assert same(weights(model), weights(whole))
    with pytest.raises(CalibrationError, match="one batch"):
        repair_if_better(small, model, loader("bert", 1, 16))


def test_export_repairs_and_leaves_the_supernet_alone():
    model = FAMILIES["bert"]()
    ofa = OFA(Convert(supernet(expand_ratio=[1.0, 0.5])).convert(copy.deepcopy(model)))
    before = weights(ofa.model)
    config, held_back = dynabert_config(ofa, 0.5), inputs("bert", 32, 9, 77)
    errors = []
    for batches in (None, loader("bert", 8)):
        small = ofa.export(config=config, repair=batches)
        errors.append(float(((model(**held_back) - small(**held_back)) ** 2).mean()))
    assert errors[1] < errors[0] / 2
    assert same(before, weights(ofa.model))
    with pytest.raises(CalibrationError, match="gave no batch"):
        ofa.export(config=config, repair=[])


def test_a_part_of_the_rows_is_spread_over_the_loader():
    model = FAMILIES["bert"]()
    calibration = Calibration(model, loader("bert", 8))
    judge = calibration.part(calibration.rows // 4)
    assert [batch.number for batch in judge] == [0, 4]
    assert [batch.number for batch in calibration.without(judge)] == [1, 2, 3, 5, 6, 7]
    assert calibration.part(1000).rows == calibration.rows


@given(seed=SEEDS, power=st.floats(0.5, 2.0))
def test_between_measured_sizes_a_loss_follows_the_error(seed, power):
    rng = np.random.default_rng(seed)
    errors = np.append(np.sort(rng.uniform(0.1, 5.0, 24))[::-1], 0.0)
    law = 3.0 * errors**power
    sizes, known = range(1, 24), [1, 4, 10, 16]
    found = _between(list(sizes), {size: law[size] for size in known}, errors)
    between = np.arange(16)
    np.testing.assert_allclose(found[between], law[1:17], rtol=1e-9)
    # Beyond the largest that was measured it goes to 0 in proportion.
    np.testing.assert_allclose(found[16:], law[16] * errors[17:24] / errors[16], rtol=1e-9)
    noisy = _between(list(sizes), {1: 2.0, 4: 2.5, 10: 0.5, 16: 0.1}, errors)
    assert [noisy[size - 1] for size in known] == [2.0, 2.5, 0.5, 0.1]


def test_outputs_that_cannot_be_compared_are_named():
    model = FAMILIES["bert"]()
    calibration = Calibration(model, loader("bert"))
    two = [[paddle.zeros([8, 2])] for _ in calibration]
    three = [[paddle.zeros([8, 3]), paddle.zeros([8, 2])] for _ in calibration]
    with pytest.raises(CalibrationError, match=r"shapes \[8, 2\] and \[8, 3\]"):
        mean_divergence(two, [one[:1] for one in three], calibration)
    assert mean_divergence(three, [[one[0], paddle.ones([8, 5])] for one in three], calibration) == 0
