"""Axes of size 0: whole attentions and feed-forward parts that are left out."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from paddle import nn

import ofa_slim
from families import DECODERS, FAMILIES, LAYERS, each_family, inputs, outputs
from models import Tagger, batch, bert, difference, labels, ofa_of
from ofa_slim import (
    OFA,
    Convert,
    DistillConfig,
    RunConfig,
    SearchSpace,
    SubnetConfig,
    load_subnet,
    save_subnet,
    supernet,
)
from ofa_slim.base.clock import Rule
from ofa_slim.closed_form import (
    Calibration,
    curve_sizes,
    mean_divergence,
    measure_curves,
    outputs_of,
    reorder_by_obs,
    repair,
    statistics,
)
from ofa_slim.errors import CalibrationError, ConfigError, ConvertError, IllegalSubnetError
from ofa_slim.export.formats import FORMATS, Opened, write_formats
from ofa_slim.importance import compute_neuron_head_importance, reorder_neuron_head
from ofa_slim.measure import LatencyTable
from ofa_slim.measure.cost import CostModel, measured_cost
from ofa_slim.search import SearchConfig
from ofa_slim.search.choices import rounded
from ofa_slim.supernet.layers import BiasOnly
from ofa_slim.train.strategies import Sandwich

OWN_ATTENTION = ("nezha", "mpnet", "albert", "ernie-layout", "gpt", "gpt-lm", "roformer")


def without(space: SearchSpace, *names: str) -> SubnetConfig:
    return space.complete(dict.fromkeys(names, 0))


@each_family()
def test_what_a_family_can_leave_out(name: str) -> None:
    ofa = OFA(Convert(supernet(expand_ratio=[1.0, 0.5])).convert(FAMILIES[name]()))
    least = {axis.name.rpartition(".")[2]: axis.least for axis in ofa.search_space.axes}
    assert least["ffn"] == (1 if name.startswith(DECODERS) else 0)
    assert least["heads"] == (1 if name in OWN_ATTENTION or name.startswith(DECODERS) else 0)
    for axis in ofa.search_space.axes:
        if axis.least == 0:
            config = without(ofa.search_space, axis.name)
            with ofa.subnet(config), paddle.no_grad():
                expected = outputs(ofa.model, inputs(name))
            found = outputs(ofa.export(config=config, input_shapes=[inputs(name)]), inputs(name))
            assert all(difference(one, other) < 1e-5 for one, other in zip(found, expected, strict=True))
        elif axis.name.rpartition(".")[2] in ("heads", "ffn"):
            with pytest.raises(IllegalSubnetError, match="is not a whole number between 1 and"):
                without(ofa.search_space, axis.name)


def test_an_attention_that_is_left_out_adds_its_bias_and_nothing_else() -> None:
    model = bert(layers=1)
    block = model.bert.encoder.layers[0]
    ofa = ofa_of(copy.deepcopy(model))
    small = ofa.export(config=without(ofa.search_space, "encoder.0.heads", "encoder.0.ffn"))
    hidden = model.bert.embeddings(*batch())
    hidden = block.norm1(hidden + block.self_attn.out_proj.bias)
    hidden = block.norm2(hidden + block.linear2.bias)
    assert difference(small.bert(*batch())[0], hidden) < 1e-6
    left = set(small.bert.encoder.layers[0].state_dict())
    assert left == {"self_attn.bias", "linear2.bias", "norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias"}


def test_ratios_of_0_are_choices_and_published() -> None:
    ofa = ofa_of(bert(), ratios=[1.0, 0.5, 0])
    assert ofa.search_space["encoder.0.heads"].choices == (0, 2, 4)
    config = without(ofa.search_space, "encoder.0.heads", "encoder.1.ffn")
    published = ofa.supernet.codec.from_config(config)
    assert published["bert.encoder.layers.0.self_attn.q_proj"] == {"expand_ratio": 0.0}
    assert ofa.subnet_config(published) == config
    assert ofa.subnet_config({"bert.encoder.layers.1.linear1": {"channel": 0}})["encoder.1.ffn"] == 0
    assert json.loads(config.to_json())["encoder.1.ffn"] == 0
    only = Convert(supernet(expand_ratio={"encoder.0.ffn": [1.0, 0]})).convert(bert())
    assert OFA(only).search_space["encoder.0.ffn"].choices == (0, 24)
    run = RunConfig(ofa_layers={"bert.encoder.layers.0.linear1": {"expand_ratio": [0, 1.0]}})
    assert OFA(Convert(supernet(expand_ratio=[1.0])).convert(bert()), run).search_space.smallest()["encoder.0.ffn"] == 0


@pytest.mark.parametrize(
    ("make", "ratios", "message"),
    [
        (lambda: nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2)), [1.0, 0], "only attentions and feed-forward parts"),
        (lambda: nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2)), {"0": [1.0, 0]}, "layer '0' is in no known block"),
        (FAMILIES["llama"], [1.0, 0], "axis '.*heads': expand_ratio 0 is not a number above 0"),
        (FAMILIES["roformer"], [1.0, 0], "axis 'encoder.0.heads': expand_ratio 0 is not a number above 0"),
        (bert, [0, 0.0], "has no choice above 0"),
    ],
)
def test_what_cannot_be_left_out_is_refused(make, ratios, message) -> None:  # type: ignore[no-untyped-def]  # of pytest
    model = make()
    classes = [type(layer) for layer in model.sublayers()]
    with pytest.raises(ConvertError, match=message):
        Convert(supernet(expand_ratio=ratios)).convert(model)
    assert [type(layer) for layer in model.sublayers()] == classes


def test_without_a_bias_nothing_would_remain_so_it_stays() -> None:
    block = nn.TransformerEncoderLayer(16, 4, 24, dropout=0.0, bias_attr=False)
    ofa = ofa_of(nn.TransformerEncoder(block, 2))
    assert all(axis.least == 1 for axis in ofa.search_space.axes)


def test_costs_of_all_sub_networks_are_those_of_their_exports() -> None:
    ofa = ofa_of(bert(layers=3), ratios=[1.0, 0.5, 0], run_config=RunConfig(elastic_depth=[2, 3]))
    costs = CostModel.of(ofa)
    rng = np.random.default_rng(0)
    for config in [ofa.search_space.smallest(), *(ofa.search_space.sample(rng) for _ in range(10))]:
        plain = ofa.export(config=config)
        assert costs(config) == measured_cost(plain, costs._example)
        assert costs(config).params == sum(int(one.size) for one in plain.parameters())


def test_with_a_hidden_size_the_bias_that_remains_is_cut_too(tmp_path: Path) -> None:
    Convert(supernet(expand_ratio=[1.0, 0], hidden_size=[8, 16])).convert(model := bert())
    ofa = OFA(model)
    config = ofa.search_space.smallest()
    with ofa.subnet(config), paddle.no_grad():
        expected = ofa.model(*batch())
    small = ofa.export(config=config)
    save_subnet(small, tmp_path / "saved")
    for found in (small, load_subnet(tmp_path / "saved")):
        assert found.bert.encoder.layers[0].self_attn.bias.shape == [8]
        assert difference(found(*batch()), expected) < 1e-5


def test_joined_axes_leave_out_all_that_they_join() -> None:
    names = [f"bert.encoder.layers.{number}.linear1" for number in range(2)]
    ofa = ofa_of(bert(), ratios=[1.0, 0], run_config=RunConfig(same_search_space=[names]))
    small = ofa.export(config=without(ofa.search_space, "encoder.0.ffn"))
    assert all(isinstance(block.linear2, BiasOnly) for block in small.bert.encoder.layers)


def test_a_model_that_gives_its_attention_scores_has_none_where_there_is_no_attention() -> None:
    ofa = ofa_of(bert())
    config = without(ofa.search_space, "encoder.1.heads")
    with ofa.subnet(config):
        expected = ofa.model(*batch(), output_attentions=True)
    found = ofa.export(config=config)(*batch(), output_attentions=True)
    assert difference(found[0], expected[0]) < 1e-5
    assert difference(found[1][0], expected[1][0]) < 1e-5
    assert found[1][1] is expected[1][1] is None


def test_a_step_trains_what_is_there_and_nothing_else() -> None:
    teacher = bert()
    ofa = ofa_of(bert(), teacher, ratios=[1.0, 0], mapping_layers=["bert.embeddings", "bert.encoder.layers.0"])
    config = without(ofa.search_space, "encoder.0.heads", "encoder.1.ffn")
    ofa.set_net_config(config)
    answer, _ = ofa(*batch())
    (F.cross_entropy(answer, labels()) + ofa.calc_distill_loss()).backward()
    first, second = ofa.model.bert.encoder.layers
    for layer in (first.self_attn.q_proj, first.self_attn.out_proj, second.linear1, second.linear2):
        assert layer.weight.grad is None or float(layer.weight.grad.abs().sum()) == 0
    for parameter in (first.self_attn.out_proj.bias, first.linear1.weight, second.linear2.bias):
        assert float(parameter.grad.abs().sum()) > 0


def test_training_with_sampled_widths_of_0() -> None:
    paddle.seed(0)
    teacher = bert()
    ofa = OFA(
        Convert(supernet(expand_ratio=[1.0, 0.5, 0])).convert(copy.deepcopy(teacher)),
        None,
        DistillConfig(teacher_model=teacher),
    )
    optimizer = paddle.optimizer.AdamW(1e-3, parameters=ofa.model.parameters())
    space, rng = ofa.search_space, np.random.default_rng(0)
    for _ in range(3):
        configs = [space.largest(), space.sample(rng), space.smallest()]
        ofa.train_step(batch(), lambda answer, *teacher: F.cross_entropy(answer, labels()), configs)
        optimizer.step()
        optimizer.clear_grad()
    assert all(np.isfinite(value.numpy()).all() for value in ofa.model.state_dict().values())


@pytest.mark.slow
def test_what_is_left_out_is_not_in_any_format(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    ofa = ofa_of(bert(head_dim=8, ffn=64))
    config = without(ofa.search_space, "encoder.0.heads", "encoder.1.ffn")
    sample = {name: tensor.numpy() for name, tensor in zip(("input_ids", "token_type_ids"), batch(64, 9), strict=True)}
    with ofa.subnet(config), paddle.no_grad():
        expected = ofa.model(*map(paddle.to_tensor, sample.values())).numpy()
    small = ofa.export(config=config)
    write_formats(small, tmp_path / "out", [sample], list(FORMATS), config=config, timed=[])
    for name, kind in FORMATS.items():
        allowed = 1e-4 if kind.exact else 0.2
        found = Opened(tmp_path / "out" / name)(sample)[0]
        assert np.abs(found - expected).max() / np.abs(expected).max() < allowed, name
    import onnx

    graph = onnx.load(str(tmp_path / "out" / "onnx" / "model.onnx")).graph
    assert sum(node.op_type == "Softmax" for node in graph.node) == 1


def test_an_exported_model_can_be_compressed_again(tmp_path: Path) -> None:
    ofa = ofa_of(bert(layers=3))
    small = ofa.export(config=without(ofa.search_space, "encoder.0.heads", "encoder.2.ffn"))
    narrow = copy.deepcopy(small)
    expected = small(*batch())
    rows = [(*batch(seed=seed), labels(seed=seed)) for seed in range(2)]
    scores = compute_neuron_head_importance("again", small, rows, 3, 4)
    reorder_neuron_head(small, *scores)
    assert difference(small(*batch()), expected) < 1e-5
    again = ofa_of(small)
    names = [axis.name for axis in again.search_space.axes]
    assert names == ["encoder.0.ffn", "encoder.1.heads", "encoder.1.ffn", "encoder.2.heads", "encoder.depth"]
    assert "encoder.layers.0.self_attn: it is left out" in again.search_space.explain()
    smaller = again.export(config=without(again.search_space, "encoder.1.heads"))
    save_subnet(smaller, tmp_path / "smaller")
    assert difference(load_subnet(tmp_path / "smaller")(*batch()), smaller(*batch())) < 1e-6
    again = OFA(Convert(supernet(expand_ratio=[1.0, 0.5], hidden_size=[8, 16])).convert(narrow))
    costs, config = CostModel.of(again), again.search_space.smallest()
    small = again.export(config=config)
    assert small.bert.encoder.layers[0].self_attn.bias.shape == [8]
    assert costs(config) == measured_cost(small, costs._example)


def test_a_model_of_ones_own_is_left_without_and_put_back(tmp_path: Path) -> None:
    model = Tagger()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    twin = copy.deepcopy(model)
    ofa = ofa_of(model)
    config = without(ofa.search_space, "body.0.heads", "body.1.ffn")
    ids = batch()[0]
    small = ofa.export(origin_model=twin, config=config, input_shapes=[ids])
    assert small is twin
    with ofa.subnet(config):
        assert difference(small(ids), ofa.model(ids)) < 1e-6
    save_subnet(small, tmp_path / "small")
    assert difference(load_subnet(tmp_path / "small", model=Tagger())(ids), small(ids)) < 1e-6
    broken = Tagger()
    broken.head = nn.Linear(16, 5, bias_attr=False)
    with pytest.raises(ofa_slim.errors.ExportError):
        ofa.export(origin_model=broken, config=config, input_shapes=[ids])
    assert isinstance(broken.body.layers[0].self_attn, nn.MultiHeadAttention)
    assert all(np.array_equal(value.numpy(), state[name].numpy()) for name, value in ofa.model.state_dict().items())


@pytest.mark.slow
def test_a_latency_table_knows_what_is_saved() -> None:
    ofa = ofa_of(bert(layers=2, heads=4, head_dim=16, ffn=256), ratios=[1.0, 0.5, 0])
    rule = Rule(most=6, least=3)
    table = LatencyTable.build(ofa, input_shapes=[[8, 32], [8, 32]], progress=False, rule=rule)
    space = ofa.search_space
    whole = table.predict(space.largest())
    print(
        {
            k: table.predict(c) / whole
            for k, c in (
                ("a", without(space, "encoder.0.heads", "encoder.1.heads")),
                ("h", space.complete({"encoder.0.heads": 2, "encoder.1.heads": 2})),
                ("f", without(space, "encoder.0.ffn", "encoder.1.ffn")),
                ("s", space.smallest()),
            )
        }
    )
    assert table.predict(without(space, "encoder.0.heads", "encoder.1.heads")) < whole
    assert table.predict(space.smallest()) < 0.6 * whole


def test_a_search_chooses_what_to_leave_out() -> None:
    ofa = ofa_of(bert(layers=3), ratios=[1.0, 0])
    settings = SearchConfig(progress=False, candidates=12, warm_up=6, directory=None)
    found = ofa.search(lambda one: {"score": -float(one.model(*batch()).abs().mean())}, {"flops_ratio": 0.6}, settings)
    assert min(found.best.config.values()) == 0
    assert found.best.costs["flops_ratio"] <= 0.6


def test_a_curve_at_0_is_what_leaving_out_loses() -> None:
    model = FAMILIES["bert"]()
    calibration = Calibration(model, [inputs("bert", 8, 9, seed) for seed in range(4)])
    found = statistics(model, calibration)
    removals = found.removals(model)
    curves = measure_curves(model, calibration, found, removals, omit=True)
    assert [curve.sizes[0] for curve in curves] == [0] * 2 * LAYERS
    ofa = OFA(Convert(supernet(expand_ratio=[1.0])).convert(copy.deepcopy(model)))
    wanted = outputs_of(model, calibration)
    part = found.parts[-1]
    small = ofa.export(config=without(ofa.search_space, part.axis.name))
    bias = small.bert.encoder.layers[LAYERS - 1].linear2.bias
    matrix = model.bert.encoder.layers[LAYERS - 1].linear2
    mean = paddle.to_tensor(found.moments[part.matrix].mean).astype("float32")
    bias.set_value(matrix.bias + mean @ matrix.weight)
    lost = mean_divergence(wanted, outputs_of(small, calibration), calibration)
    assert curves[-1].losses[0] == pytest.approx(max(lost, curves[-1].losses[1]), rel=1e-3)
    assert [curve.sizes[0] for curve in measure_curves(model, calibration, found, removals)] == [1] * 2 * LAYERS
    assert curve_sizes(part.axis)[0] == 1
    stays = replace(part.axis, size=1536, choices=(1536,), bypasses=(), original=0, one_share=0)
    assert curve_sizes(stays, omit=True) == curve_sizes(stays)


def test_repair_makes_up_for_what_is_left_out() -> None:
    model = FAMILIES["ernie"]()
    rows = [inputs("ernie", 8, 9, seed) for seed in range(4)]
    calibration = Calibration(model, rows)
    found = statistics(model, calibration)
    whole = copy.deepcopy(model)
    reorder_by_obs(whole, found.removals(model))
    ofa = OFA(Convert(supernet(expand_ratio=[1.0])).convert(whole))
    wanted = outputs_of(model, calibration)
    for names in (("encoder.0.heads",), tuple(axis.name for axis in ofa.search_space.axes if not axis.least)):
        small = ofa.export(config=without(ofa.search_space, *names))
        before = {path: layer.bias.numpy() for path, layer in small.named_sublayers() if isinstance(layer, BiasOnly)}
        lost = mean_divergence(wanted, outputs_of(small, calibration), calibration)
        errors = repair(small, model, calibration)
        assert len(errors) == 2 * LAYERS
        assert mean_divergence(wanted, outputs_of(small, calibration), calibration) < lost
        layers = dict(small.named_sublayers())
        assert before
        assert all(np.abs(layers[path].bias.numpy() - bias).max() > 1e-6 for path, bias in before.items())
        assert all(error.after <= error.before * (1 + 1e-6) + 1e-12 for error in errors)
        gone = [error for error in errors if "self_attn.out_proj" not in error.matrix and error.before > 1e-6]
        assert any(error.after < error.before for error in gone)


def test_compress_with_training_may_leave_out() -> None:
    loader = [{"input_ids": batch(16, seed=seed)[0], "labels": labels(16)} for seed in range(2)]
    training = ofa_slim.Training(epochs=1, candidates=8, widths=[1.0, 0])
    found = ofa_slim.compress(
        bert(),
        loader,
        lambda model: -float(model(batch()[0]).abs().mean()),
        budget={"flops_ratio": 0.5},
        training=training,
    )
    assert 0 in found.report.config.values()
    assert found.report.costs["flops_ratio"] <= 0.5
    with pytest.raises(ConfigError, match=r"give Training\(widths="):
        ofa_slim.compress(bert(), loader, lambda model: 0.0, budget={"flops_ratio": 0.5}, omit=True)


def test_the_smallest_of_the_sandwich_has_all_its_parts() -> None:
    space = ofa_of(bert(), ratios=[1.0, 0.5, 0]).search_space
    smallest = Sandwich(space, 0)(np.random.default_rng(0))[-1]
    assert {smallest["encoder.0.heads"], smallest["encoder.1.ffn"]} == {2, 12}


def test_widths_that_are_multiples_keep_what_may_be_left_out() -> None:
    space = rounded(ofa_of(bert(), ratios=[1.0, 0.5, 0.25, 0]).search_space, 8)
    assert space["encoder.0.ffn"].choices == (0, 8, 16, 24)


def test_compress_without_training_may_leave_out() -> None:
    model = bert(layers=3)
    rows = [batch(8, 9, seed) for seed in range(4)]
    budget = {"flops_ratio": 0.15}  # one head and one neuron everywhere cost more
    small = ofa_slim.compress(model, rows, budget=budget, omit=True)
    assert 0 in small.report.config.values()
    assert small.report.costs["flops"] <= 0.15 * small.report.original_costs["flops"]
    with pytest.raises(CalibrationError, match="the smallest sizes have flops_ratio"):
        ofa_slim.compress(model, rows, budget=budget)
