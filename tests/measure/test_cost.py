"""What a sub-network costs is what the model exported from it costs, and what Paddle counts."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np
import paddle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paddle import nn
from paddle.vision import models as vision

from models import Tagger, bert, configs, ofa_of, shapes
from odd_models import SuperResolution
from ofa_slim import OFA, Convert, RunConfig, SubnetConfig, supernet
from ofa_slim.base.examples import random_example
from ofa_slim.measure.cost import Cost, CostModel, measured_cost
from ofa_slim.supernet import SuperConv2D

IMAGES = [2, 3, 32, 32]


def params_of(model: nn.Layer) -> int:
    return sum(int(parameter.size) for parameter in model.parameters())


def check(ofa: OFA, config: SubnetConfig, input_shapes: Any = None, model: CostModel | None = None) -> Cost:
    """The cost of a config equals that of its exported model, counted by running it."""
    cost = (model or CostModel.of(ofa, input_shapes))(config)
    plain = ofa.export(config=config, input_shapes=input_shapes)
    call = {"depth": config["depth"]} if "depth" in config else {}
    assert cost == measured_cost(plain, random_example(plain, input_shapes, **call), **call)
    assert cost.params == params_of(plain)
    return cost


@settings(max_examples=12)
@given(shape=shapes(), data=st.data())
def test_a_bert_of_any_config_costs_what_its_export_costs(shape: dict[str, int], data: st.DataObject) -> None:
    ofa = ofa_of(bert(**shape), ratios=[1.0])
    check(ofa, data.draw(configs(ofa.search_space)))


def test_attention_is_counted_by_hand() -> None:
    ofa = ofa_of(Tagger(layers=1), ratios=[1.0])
    rows, length, width, ffn, words = 2, 16, 16, 24, 50
    found = CostModel.of(ofa)(ofa.search_space.largest())
    linear = 4 * width * width + 2 * width * ffn + width * 5
    attention = 2 * length * width
    assert found.flops == rows * length * (linear + attention + 2 * 2 * width)
    assert found.params == words * width + linear + 4 * width + ffn + width + 5 + 2 * 2 * width
    outputs = width + 4 * width + 4 * length + 2 * width + ffn + width + 5
    assert found.activation_bytes == 4 * rows * length * outputs
    assert found.working_bytes == 4 * rows * length * max(4 * length + width, width + ffn)
    assert found.matrix_params == words * width + linear


class Mixed(nn.Layer):
    """A layer of every kind that is elastic."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2D(3, 8, 3, padding=1), nn.BatchNorm2D(8)
        self.depthwise, self.slopes = nn.Conv2D(8, 8, 3, padding=1, groups=8), nn.PReLU(8)
        self.grouped, self.groups = nn.Conv2D(8, 12, 3, padding=1, groups=2, bias_attr=False), nn.GroupNorm(2, 12)
        self.up, self.instance = nn.Conv2DTranspose(12, 6, 2, stride=2), nn.InstanceNorm2D(6)
        self.last, self.head = nn.Conv2D(6, 4, 1), nn.Linear(4, 3)
        self.shift = self.create_parameter([1, 3, 1, 1])

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        x = self.slopes(self.depthwise(self.norm(self.stem(x + self.shift))))
        x = self.last(self.instance(self.up(self.groups(self.grouped(x)))))
        return self.head(x.mean(axis=[2, 3]))


class Mixer(nn.Layer):
    """A linear layer over positions, of which there are as many as channels."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.across, self.narrow = nn.Linear(4, 12), nn.Linear(6, 6), nn.Linear(12, 2)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        x = self.wide(x)
        return self.narrow(x + self.across(x.transpose([0, 2, 1])).transpose([0, 2, 1]))


class OwnDepth(nn.Layer):
    """Cuts its own depth."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.LayerList([nn.Linear(6, 6) for _ in range(3)])

    def forward(self, x: paddle.Tensor, depth: int = 3) -> paddle.Tensor:
        for layer in list(self.layers)[:depth]:
            x = x + layer(x)
        return x


def elastic(model: nn.Layer, shape: list[int], run: RunConfig | None = None, **choices: Any) -> OFA:
    return OFA(Convert(supernet(**choices)).convert(model), run, example_inputs=paddle.rand(shape))


@pytest.mark.parametrize(
    ("make", "shape", "choices"),
    [
        (Mixed, IMAGES, {"kernel_size": (1, 3), "expand_ratio": [0.5, 1.0]}),
        (Mixed, IMAGES, {"expand_ratio": [1, 2]}),
        (Mixer, [2, 6, 4], {"expand_ratio": [0.25, 0.5, 1.0]}),
        (SuperResolution, IMAGES, {"expand_ratio": [0.5, 1.0]}),
        (vision.LeNet, [2, 1, 28, 28], {"kernel_size": (3, 5), "expand_ratio": [0.25, 0.5, 1.0]}),
        (vision.resnet18, IMAGES, {"kernel_size": (3, 5), "expand_ratio": [0.25, 0.5, 1.0]}),
        (vision.mobilenet_v3_small, IMAGES, {"expand_ratio": [0.25, 0.5, 1.0]}),
        (vision.shufflenet_v2_x0_25, IMAGES, {"expand_ratio": [0.5, 1.0]}),
        (vision.squeezenet1_1, [1, 3, 64, 64], {"expand_ratio": [0.5, 1.0]}),
    ],
)
def test_any_model_of_any_config_costs_what_its_export_costs(
    make: Any, shape: list[int], choices: dict[str, Any]
) -> None:
    ofa = elastic(make(), shape, **choices)
    model, rng = CostModel.of(ofa, shape), np.random.default_rng(0)
    space = ofa.search_space
    for config in (space.largest(), space.smallest(), space.sample(rng)):
        check(ofa, config, shape, model)


def test_transformed_kernels_cost_what_plain_ones_do() -> None:
    layer = SuperConv2D(3, 4, 5, candidate_config={"kernel_size": (3, 5)}, transform_kernel=True, padding=2)
    ofa = OFA(nn.Sequential(layer), example_inputs=paddle.rand(IMAGES))
    for config in (ofa.search_space.largest(), ofa.search_space.smallest()):
        check(ofa, config, IMAGES)


def test_a_model_that_cuts_its_own_depth_keeps_its_parameters() -> None:
    ofa = elastic(OwnDepth(), [2, 6], RunConfig(elastic_depth=[1, 3]), expand_ratio=[1.0])
    model = CostModel.of(ofa, [2, 6])
    deep, shallow = (model(ofa.search_space.complete({"depth": depth})) for depth in (3, 1))
    assert deep.params == shallow.params
    assert deep.flops == 3 * shallow.flops


@pytest.mark.parametrize(("make", "shape"), [(vision.LeNet, [1, 1, 28, 28]), (vision.resnet18, [1, 3, 64, 64])])
def test_multiply_accumulates_are_those_that_paddle_counts(make: Any, shape: list[int]) -> None:
    model = make()
    model.eval()
    # What `paddle.flops` hooks to layers; it fails itself where it prints its sum, with NumPy from 2.4 on.
    counters = import_module("paddle.hapi.dynamic_flops").register_hooks
    counted = []
    for layer in model.sublayers():
        if isinstance(layer, (nn.Conv2D, nn.BatchNorm2D, nn.Linear)):
            layer.total_ops = 0
            layer.register_forward_post_hook(counters[type(layer)])
            counted.append(layer)
    model(paddle.rand(shape))
    paddles = sum(layer.total_ops for layer in counted)
    assert measured_cost(model, random_example(model, shape)).flops == paddles > 0


def test_counting_leaves_the_supernet_as_it_was() -> None:
    ofa = ofa_of(bert(), ratios=[1.0, 0.5])
    half = ofa.search_space.uniform(0.5)
    ofa.set_net_config(half)
    ofa.train()
    inputs = paddle.ones([1, 4], "int64")
    before = ofa(inputs).numpy()
    CostModel.of(ofa)(ofa.search_space.smallest())
    assert ofa.model.training
    assert ofa.net_config == half
    assert np.array_equal(ofa(inputs).numpy(), before)
