"""The truths that always hold, over random BERT shapes and random configs."""

from __future__ import annotations

import copy
import subprocess
import sys
from typing import Any

import numpy as np
import paddle
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models import batch, bert, configs, difference, labels, ofa_of, shapes
from ofa_slim import OFA, Convert, load_subnet, save_subnet, supernet
from ofa_slim.importance import compute_neuron_head_importance, reorder_neuron_head
from ofa_slim.supernet.layers import ElasticLayer, kept_layers

CLOSE = 1e-5


def converted(model: paddle.nn.Layer) -> OFA:
    return ofa_of(model, ratios=[1.0])


@given(shape=shapes())
def test_at_full_size_a_supernet_computes_what_the_model_did(shape: dict[str, int]) -> None:
    model, inputs = bert(**shape), batch()
    expected = model(*inputs)
    ofa = converted(model)
    assert difference(model(*inputs), expected) == 0
    with ofa.subnet(ofa.search_space.largest()):
        assert difference(ofa(*inputs), expected) == 0


@given(shape=shapes(), seed=st.integers(0, 1000))
def test_reordering_does_not_change_what_the_model_computes(shape: dict[str, int], seed: int) -> None:
    model, inputs = bert(**shape), batch()
    expected = model(*inputs)
    rng = np.random.default_rng(seed)
    heads = paddle.to_tensor(rng.random((shape["layers"], shape["heads"])))
    neurons = [paddle.to_tensor(rng.random(shape["ffn"])) for _ in range(shape["layers"])]
    before = model.bert.encoder.layers[0].linear1.weight.numpy()
    reorder_neuron_head(model, heads, neurons)
    order = np.argsort(-neurons[0].numpy(), kind="stable")
    assert np.array_equal(model.bert.encoder.layers[0].linear1.weight.numpy(), before[:, order])
    assert difference(model(*inputs), expected) < CLOSE


@given(shape=shapes(), data=st.data())
def test_an_exported_subnet_computes_what_the_supernet_does(shape: dict[str, int], data: st.DataObject) -> None:
    ofa, inputs = converted(bert(**shape)), batch()
    config = data.draw(configs(ofa.search_space))
    with ofa.subnet(config):
        expected = ofa(*inputs)
    plain = ofa.export(config=config)
    plain.eval()
    assert difference(plain(*inputs), expected) < CLOSE
    assert not any(isinstance(layer, ElasticLayer) for layer in plain.sublayers(include_self=True))
    assert plain.config.num_hidden_layers == len(plain.bert.encoder.layers) == config["encoder.depth"]
    # The supernet is still whole.
    with ofa.subnet(config):
        assert difference(ofa(*inputs), expected) == 0


@given(data=st.data())
def test_a_reloaded_subnet_computes_what_the_supernet_does(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    ofa, inputs = converted(bert(layers=3)), batch()
    config = data.draw(configs(ofa.search_space))
    with ofa.subnet(config):
        expected = ofa(*inputs)
    folder = tmp_path_factory.mktemp("saved") / "subnet"
    save_subnet(ofa.export(config=config), folder)
    loaded = load_subnet(folder)
    assert type(loaded) is type(ofa.model)
    assert difference(loaded(*inputs), expected) < CLOSE


@given(shape=shapes(), data=st.data())
def test_the_active_subnet_is_the_leading_slice(shape: dict[str, int], data: st.DataObject) -> None:
    """Against a small plain BERT built from scratch, with weights copied by hand."""
    model, inputs = bert(**shape), batch()
    ofa = converted(model)
    heads = data.draw(st.integers(1, shape["heads"]))
    ffn = data.draw(st.integers(1, shape["ffn"]))
    depth = data.draw(st.integers(1, shape["layers"]))
    small = bert(**{**shape, "layers": depth})
    state = model.state_dict()
    channels = heads * shape["head_dim"]
    for new, old in enumerate(kept_layers(depth, shape["layers"])):
        block = small.bert.encoder.layers[new]
        prefix = f"bert.encoder.layers.{old}."
        block.self_attn.num_heads = heads
        for name in ("q_proj", "k_proj", "v_proj"):
            _replace(getattr(block.self_attn, name), state, f"{prefix}self_attn.{name}", None, channels)
        _replace(block.self_attn.out_proj, state, f"{prefix}self_attn.out_proj", channels, None)
        _replace(block.linear1, state, f"{prefix}linear1", None, ffn)
        _replace(block.linear2, state, f"{prefix}linear2", ffn, None)
        block.norm1.set_state_dict({key: state[f"{prefix}norm1.{key}"] for key in ("weight", "bias")})
        block.norm2.set_state_dict({key: state[f"{prefix}norm2.{key}"] for key in ("weight", "bias")})
    for key, value in small.state_dict().items():
        if ".layers." not in key:
            value.set_value(state[key])
    sizes = {f"encoder.{i}.heads": heads for i in range(shape["layers"])}
    sizes |= {f"encoder.{i}.ffn": ffn for i in range(shape["layers"])}
    with ofa.subnet(ofa.search_space.complete({**sizes, "encoder.depth": depth})):
        assert difference(ofa(*inputs), small(*inputs)) < CLOSE


def _replace(layer: Any, state: Any, key: str, rows: int | None, columns: int | None) -> None:
    weight = state[f"{key}.weight"][:rows, :columns]
    layer.weight = layer.create_parameter(weight.shape)
    layer.weight.set_value(weight)
    bias = state[f"{key}.bias"][:columns]
    layer.bias = layer.create_parameter(bias.shape, is_bias=True)
    layer.bias.set_value(bias)


@given(shape=shapes())
def test_converting_keeps_every_parameter_object_and_key(shape: dict[str, int]) -> None:
    model = bert(**shape)
    calls: list[int] = []
    model.classifier.register_forward_post_hook(lambda layer, inputs, output: calls.append(1))
    optimizer = paddle.optimizer.SGD(0.1, parameters=model.parameters())
    parameters, keys = [id(p) for p in model.parameters()], list(model.state_dict())
    classes = [type(layer) for layer in model.sublayers()]
    Convert(supernet(expand_ratio=[1.0])).convert(model)
    assert [id(p) for p in model.parameters()] == parameters
    assert list(model.state_dict()) == keys
    assert all(isinstance(layer, old) for layer, old in zip(model.sublayers(), classes, strict=True))
    before = model.classifier.weight.numpy()
    model(*batch()).sum().backward()
    optimizer.step()
    assert calls
    assert not np.array_equal(model.classifier.weight.numpy(), before)


def _framework_state() -> dict[tuple[str, str], int]:
    classes = [value for value in vars(paddle.nn).values() if isinstance(value, type)]
    return {(kind.__name__, name): id(member) for kind in classes for name, member in vars(kind).items()}


def test_nothing_outside_the_model_is_patched(tmp_path: Any) -> None:
    other, inputs = bert(), batch()
    expected, classes = other(*inputs), [type(layer) for layer in other.sublayers(include_self=True)]
    before = _framework_state()
    model = bert()
    ofa = ofa_of(model, copy.deepcopy(model), mapping_layers=["bert.embeddings"])
    compute_neuron_head_importance("", ofa, [(*inputs, labels())], 2, 4)
    ofa(*inputs)
    save_subnet(ofa.export(config=ofa.search_space.smallest()), tmp_path / "subnet")
    assert _framework_state() == before
    assert [type(layer) for layer in other.sublayers(include_self=True)] == classes
    assert difference(other(*inputs), expected) == 0


@pytest.mark.slow
def test_importing_patches_nothing_and_loads_nothing_heavy() -> None:
    code = """
import sys, paddle
def state():
    return {(k.__name__, n): id(m) for k in vars(paddle.nn).values() if isinstance(k, type) for n, m in vars(k).items()}
before = state()
import ofa_slim, ofa_slim.importance
heavy = {"paddlenlp", "optuna", "sklearn", "matplotlib", "visualdl", "onnx", "onnxruntime"} & set(sys.modules)
sys.exit("Paddle was changed" if state() != before else ", ".join(heavy))
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == ""


@given(shape=shapes(), data=st.data())
def test_weights_outside_the_active_slice_get_no_gradient(shape: dict[str, int], data: st.DataObject) -> None:
    model = bert(**shape)
    ofa = converted(model)
    config = data.draw(configs(ofa.search_space))
    ofa.set_net_config(config)
    (ofa(*batch()) ** 2).sum().backward()
    kept = kept_layers(config["encoder.depth"], shape["layers"])
    for i, block in enumerate(dict(model.bert.encoder.layers.named_children()).values()):
        channels = config[f"encoder.{i}.heads"] * shape["head_dim"] if i in kept else 0
        ffn = config[f"encoder.{i}.ffn"] if i in kept else 0
        outside = [
            *(getattr(block.self_attn, name).weight.grad for name in ("q_proj", "k_proj", "v_proj")),
            block.linear1.weight.grad,
        ]
        sizes = [channels] * 3 + [ffn]
        for grad, size in zip(outside, sizes, strict=True):
            assert grad is None or float(grad[:, size:].abs().sum()) == 0
        for grad, size in (
            (block.self_attn.out_proj.weight.grad, channels),
            (block.linear2.weight.grad, ffn),
        ):
            assert grad is None or float(grad[size:].abs().sum()) == 0
        for grad, size in ((block.self_attn.q_proj.bias.grad, channels), (block.linear1.bias.grad, ffn)):
            assert grad is None or float(grad[size:].abs().sum()) == 0
        if i in kept and ffn:
            assert block.linear2.weight.grad is not None
