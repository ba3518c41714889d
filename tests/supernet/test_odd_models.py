"""Models that were not written with this library in mind: what is elastic in them, and what says why not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import paddle
import pytest
from paddle import nn

import odd_models as odd
from ofa_slim import OFA, Convert, supernet
from ofa_slim.supernet.coupling.program import tensors_in

RNG = np.random.default_rng(0)


def numbers(*shape: int) -> paddle.Tensor:
    return paddle.to_tensor(RNG.standard_normal(shape), dtype="float32")


def ids(*shape: int) -> paddle.Tensor:
    return paddle.to_tensor(RNG.integers(0, 30, shape))


def normed(norm: Callable[[nn.Layer], Any]) -> nn.Layer:
    model = odd.nested()
    norm(model[1][0])
    return model


OUTPUT = "it is an output of the model"
ROW, PICTURE, WORDS = numbers(2, 6), numbers(2, 3, 8, 8), ids(2, 7)

# The model, its inputs, the layers whose width (or the sum that it is part of) is elastic, and why others are not.
CASES: dict[str, tuple[Callable[[], nn.Layer], Any, set[str], dict[str, str]]] = {
    "two inputs": (odd.TwoInputs, (PICTURE, numbers(2, 5)), {"look", "read", "mix"}, {"head": OUTPUT}),
    "dictionary input": (
        odd.DictionaryInput,
        {"ids": WORDS, "scores": numbers(2, 4)},
        {"words", "body.0"},
        {"body.2": OUTPUT},
    ),
    "shared layers": (
        odd.SharedLayers,
        WORDS,
        {"up"},
        {"words": "the forward computes with its weights outside the layer", "down": "it meets the fixed size of"},
    ),
    "early exits": (odd.EarlyExits, PICTURE, {"stages.0", "stages.1", "stages.2"}, {"exits.1": OUTPUT}),
    "added parameter": (
        odd.AddedParameter,
        numbers(2, 5, 6),
        {"first", "second"},
        {},
    ),
    "added input": (
        odd.AddedInput,
        ROW,
        {"first", "third"},
        {"second": "it meets the fixed size of input 'input_0'"},
    ),
    "control flow by data": (
        odd.DataDependent,
        ROW,
        {"first"},
        {"second": "it passes through control flow that depends on data"},
    ),
    "a number read in Python": (odd.AskedInPython, ROW, {"first"}, {"head": OUTPUT}),
    "LSTM": (odd.Recurrent, WORDS, {"words", "out"}, {"into": "it passes through operation 'rnn'"}),
    "GRU": (lambda: odd.Recurrent(nn.GRU), WORDS, {"words", "out"}, {"into": "it passes through operation 'rnn'"}),
    "own gradient": (
        odd.OwnGradient,
        ROW,
        {"second"},
        {"first": "it passes through a function with a custom gradient"},
    ),
    "einsum attention": (
        odd.EinsumAttention,
        numbers(2, 5, 8),
        {"query", "wide"},
        {"out": "it meets the fixed size of input", "narrow": "it meets the fixed size of input"},
    ),
    "nested": (odd.nested, ROW, {"0.0.0", "0.1.0.0", "1.0"}, {"2": OUTPUT}),
    "channels last": (odd.ChannelsLast, numbers(2, 8, 8, 3), {"body.0", "body.5"}, {"head": OUTPUT}),
    "buffers": (odd.WithBuffers, ROW, {"first", "second"}, {}),
    "optional arguments": (odd.OptionalArguments, ROW, {"first"}, {"extra": "the traced forward does not use it"}),
    "pixel shuffle": (odd.SuperResolution, PICTURE, {"first", "second", "third"}, {"last": OUTPUT}),
    "vision transformer": (
        odd.Vit,
        PICTURE,
        {"blocks.0.fc1", "blocks.1.fc1"},
        {
            "patches": "at a smaller width the forward fails",
            "blocks.0.qkv": "at a smaller width the forward fails",
            "blocks.1.proj": "at a smaller width the forward fails",
        },
    ),
    "U-Net": (
        odd.Unet,
        PICTURE,
        {"down.0", "down.1", "down.2", "rise.0", "rise.1", "up.0", "up.1"},
        {"last": OUTPUT},
    ),
    "weight norm": (
        lambda: normed(nn.utils.weight_norm),
        ROW,
        {"0.0.0"},
        {"0.1.0.0": "it meets the fixed size of", "1.0": "its weight is computed anew in each forward"},
    ),
    "spectral norm": (
        lambda: normed(nn.utils.spectral_norm),
        ROW,
        {"0.0.0"},
        {"1.0": "its weight is computed anew in each forward"},
    ),
    "penalty": (
        odd.Penalised,
        ROW,
        {"second"},
        {"first": "the forward computes with its weights outside the layer"},
    ),
}


def inputs_of(example: Any) -> tuple[Any, ...]:
    return example if isinstance(example, tuple) else (example,)


def shapes_and_types(example: Any) -> tuple[list[Any], list[Any]]:
    described = [
        ({key: list(part.shape) for key, part in given.items()}, {key: part.dtype for key, part in given.items()})
        if isinstance(given, dict)
        else (list(given.shape), given.dtype)
        for given in inputs_of(example)
    ]
    return [shape for shape, _ in described], [dtype for _, dtype in described]


def worst(found: Any, expected: Any) -> float:
    """The largest difference between outputs, relative to the largest of them."""
    pairs = list(zip(tensors_in(found), tensors_in(expected), strict=True))
    assert pairs
    return max(float((a - b).abs().max()) / max(1.0, float(b.abs().max())) for a, b in pairs)


def size(model: nn.Layer) -> int:
    return sum(parameter.size for parameter in model.parameters())


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> tuple[nn.Layer, Any, set[str], dict[str, str]]:
    make, example, elastic, fixed = CASES[request.param]
    return make(), example, elastic, fixed


def test_each_works_or_says_what_stands_in_the_way(case: tuple[nn.Layer, Any, set[str], dict[str, str]]) -> None:
    model, example, elastic, fixed = case
    inputs, (shapes, dtypes) = inputs_of(example), shapes_and_types(example)
    model.eval()
    expected, parameters = model(*inputs), {key: id(value) for key, value in model.state_dict().items()}
    full = size(model)
    ofa = OFA(Convert(supernet(expand_ratio=[0.25, 0.5, 1.0])).convert(model), example_inputs=example)
    space = ofa.search_space
    assert set(ofa.ofa_layers) == elastic
    reasons = {row.layer: row.reason for row in space.fixed}
    for layer, reason in fixed.items():
        assert reasons[layer].startswith(reason)
    with ofa.subnet(space.largest()):
        assert worst(ofa(*inputs), expected) < 1e-6
    for config in [space.smallest(), *(space.sample(np.random.default_rng(seed)) for seed in range(4))]:
        ofa.set_net_config(config)
        ofa.train()
        sum(output.mean() for output in tensors_in(ofa(*inputs))).backward()
        assert any(parameter.grad is not None for parameter in model.parameters())
        ofa.clear_gradients()
        ofa.eval()
        plain = ofa.export(config=config, input_shapes=shapes, input_dtypes=dtypes)
        assert worst(plain(*inputs), ofa(*inputs)) < 1e-4
        assert (size(plain) < full) == (config != space.largest())
    assert {key: id(value) for key, value in model.state_dict().items()} == parameters


def test_what_the_example_uses_is_elastic_and_other_arguments_go_through() -> None:
    model, more = odd.OptionalArguments(), numbers(2, 4)
    model.eval()
    expected = model(ROW, more=more, scale=2.0, both=True)
    ofa = OFA(Convert(supernet(expand_ratio=[0.5, 1.0])).convert(model), example_inputs={"x": ROW, "more": more})
    assert set(ofa.layers) == {"first", "extra"}
    ofa.eval()
    with ofa.subnet(ofa.search_space.largest()):
        assert worst(ofa(ROW, more=more, scale=2.0, both=True), expected) == 0
    config = ofa.search_space.smallest()
    plain = ofa.export(config=config, input_shapes=[{"x": [2, 6], "more": [2, 4]}], input_dtypes="float32")
    with ofa.subnet(config):
        assert worst(plain(ROW, more=more, scale=3.0), ofa(ROW, more=more, scale=3.0)) < 1e-4
