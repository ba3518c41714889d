"""The rules of training on a convolutional model: orders, phases, optimizers, names of layers."""

from __future__ import annotations

import inspect
from itertools import permutations
from typing import Any

import numpy as np
import paddle
import pytest
from paddle import nn
from paddle.nn import functional as F
from paddle.vision.models import resnet50

from models import difference
from odd_models import DataDependent
from ofa_slim import OFA, Convert, RunConfig, supernet
from ofa_slim.errors import ConfigError, ConvertError, IllegalSubnetError
from ofa_slim.supernet import layers

X = paddle.to_tensor(np.random.default_rng(0).standard_normal((2, 3, 8, 8)), dtype="float32")


class Tower(nn.Layer):
    """A stem, a depthwise convolution with two outputs per input, a stack whose forward is told its depth, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2D(3, 4, 7, padding=3)
        self.spread = nn.Conv2D(4, 8, 3, padding=1, groups=4)
        self.body = nn.LayerList([nn.Conv2D(8, 8, 1) for _ in range(3)])
        self.head = nn.Linear(8, 2)

    def forward(self, x: paddle.Tensor, depth: int = 3) -> paddle.Tensor:
        x = self.spread(F.relu(self.stem(x)))
        for layer in self.body[:depth]:
            x = F.relu(layer(x)) + x
        return self.head(x.mean([2, 3]))


def converted(ratios: Any = (0.25, 0.5, 1.0), kernels: Any = (3, 5, 7)) -> Tower:
    model = Tower()
    Convert(supernet(kernel_size=kernels, expand_ratio=list(ratios))).convert(model)
    return model


def offered(ofa: OFA, count: int = 20) -> dict[str, set[int]]:
    """The sizes that forwards draw, by task."""
    seen = []
    for _ in range(count):
        ofa(X)
        seen.append(ofa.subnet_config(ofa.current_config or {}))
    names = {"kernel_size": "stem.kernel_size", "width": "stem", "depth": "depth"}
    return {task: {config[name] for config in seen} for task, name in names.items()}


CHOICES = {"kernel_size": (3, 5, 7), "width": (1, 2, 4), "depth": (1, 2, 3)}


@pytest.mark.parametrize("order", [None, *permutations(CHOICES)])
def test_tasks_join_in_order_and_each_begins_with_its_largest_choices(order: tuple[str, ...] | None) -> None:
    run = RunConfig(n_epochs=[[1, 2], [3, 4], [5, 6]], elastic_depth=(1, 2, 3))
    ofa = OFA(converted(), run, elastic_order=order, example_inputs=X)
    joined = order or ("kernel_size", "width", "depth")
    for epoch in (0, 1, 2, 3, 4, 5, 99):
        ofa.set_epoch(epoch)
        newest, phase = divmod(min(epoch, 5), 2)
        seen = offered(ofa)
        for place, task in enumerate(joined):
            kept = 1 if place > newest else phase + 2 if place == newest else 3
            assert seen[task] == set(CHOICES[task][-kept:])


def test_a_list_of_another_length_than_the_tasks_is_refused_before_and_after_the_first_batch() -> None:
    for example in (None, X):
        for given in ({"n_epochs": [[1], [2]]}, {"dynamic_batch_size": [1, 1]}, {"init_learning_rate": [[0.1], [0.2]]}):
            (name,) = given
            with pytest.raises(
                ConfigError, match=rf"{name} .* has 2 entries for 3 tasks \(kernel_size, width, depth\)"
            ):
                OFA(converted(), RunConfig(elastic_depth=(1, 3), **given), example_inputs=example)


@pytest.mark.parametrize("ratios", [(0.5, 1.0), (1.0, 2.0)])
def test_an_optimizer_made_before_the_first_batch_trains_what_runs(ratios: tuple[float, ...]) -> None:
    model = converted(ratios, None)
    ofa = OFA(model)
    optimizer = paddle.optimizer.AdamW(0.01, parameters=ofa.parameters())
    before = {key: value.clone() for key, value in model.state_dict().items()}
    ofa.set_net_config({"stem": {"expand_ratio": ratios[0]}})
    target, losses = paddle.to_tensor([0, 1]), []
    for _ in range(5):
        loss = F.cross_entropy(ofa(X), target)
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
        losses.append(float(loss))
    assert losses[-1] < losses[0]
    assert {id(parameter) for parameter in optimizer._parameter_list} == {id(value) for value in model.parameters()}
    changed = [key for key, value in model.state_dict().items() if difference(value, before[key]) > 1e-3]
    assert changed == list(before)


def test_a_resnet_lists_one_entry_per_width_that_can_be_chosen() -> None:
    ofa = OFA(
        Convert(supernet(expand_ratio=[0.25, 0.5, 1.0])).convert(resnet50()), example_inputs=paddle.ones([1, 3, 32, 32])
    )
    assert len(ofa.ofa_layers) == 37
    assert {tuple(choices) for entry in ofa.ofa_layers.values() for choices in entry.values()} == {(0.25, 0.5, 1.0)}


@pytest.mark.parametrize("ratios", [(0.5, 1.0), (1.0, 2.0)])
def test_limits_of_the_search_space_go_by_names_of_layers(ratios: tuple[float, ...]) -> None:
    def listed(**limits: Any) -> dict[str, dict[str, tuple[float, ...]]]:
        ofa = OFA(converted(ratios), RunConfig(**limits), example_inputs=X)
        assert ofa(X).shape == [2, 2]
        return ofa.ofa_layers

    stem, kernels = {"kernel_size": (3, 5, 7), "expand_ratio": ratios}, {"kernel_size": (3, 5, 7)}
    assert listed() == {"stem": stem, "spread": kernels}
    # The depthwise convolution and the stack have the width of the stem.
    assert listed(skip_layers=["spread"]) == {"stem": {"kernel_size": (3, 5, 7)}}
    assert listed(skip_layers=["body.0", "head"]) == {"stem": kernels, "spread": kernels}
    assert listed(ofa_layers={"spread": {"kernel_size": (3, 7)}}) == {"spread": {"kernel_size": (3, 7)}}
    width = 4 if ratios[0] < 1 else 8
    assert listed(ofa_layers={"spread": {"channel": (width, 2 * width)}}) == {"stem": {"expand_ratio": ratios}}
    with pytest.raises(ConfigError, match=r"ofa_layers: the kernel of layer 'body\.1' is fixed"):
        listed(ofa_layers={"body.1": {"kernel_size": (1, 3)}})
    with pytest.raises(ConfigError, match="ofa_layers: no layer is called 'stemm'; did you mean 'stem'"):
        listed(ofa_layers={"stemm": {"kernel_size": (3, 5)}})


def test_a_layer_fixed_at_the_size_of_the_model_may_be_skipped() -> None:
    model, x = DataDependent(), paddle.ones([2, 6])
    model.eval()
    expected = model(x)
    Convert(supernet(expand_ratio=[1.0, 2.0])).convert(model)
    for run in (RunConfig(skip_layers=["second"]), RunConfig(ofa_layers={"first": {"expand_ratio": (1, 2)}})):
        ofa = OFA(model, run, example_inputs=x)
        ofa.eval()
        assert ofa.ofa_layers == {"first": {"expand_ratio": (1.0, 2.0)}}
        with ofa.subnet(ofa.search_space.original()):
            assert difference(ofa(x), expected) < 1e-5


def test_channels_are_those_of_the_layer_that_is_named() -> None:
    ofa = OFA(converted(), example_inputs=X)
    for name in ("spread", "body.2"):
        assert ofa.subnet_config({name: {"channel": 4}})["stem"] == 2
    assert ofa.subnet_config({"stem": {"channel": 2}, "spread": {"channel": 4}})["stem"] == 2
    with pytest.raises(IllegalSubnetError, match="share axis 'stem' but have sizes 4 and 2 of 4"):
        ofa.set_net_config({"stem": {"channel": 4}, "spread": {"channel": 4}})
    with pytest.raises(IllegalSubnetError, match="channel 3 is not a multiple of 2"):
        ofa.set_net_config({"spread": {"channel": 3}})


def test_a_supernet_that_its_forward_does_not_allow_to_be_larger_is_refused() -> None:
    class Scaled(nn.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 2)
            self.scale = self.create_parameter([6])

        def forward(self, x: paddle.Tensor) -> paddle.Tensor:
            return self.b(self.a(x) * self.scale)

    model = Convert(supernet(expand_ratio=[1.0, 2.0])).convert(Scaled())
    with pytest.raises(ConvertError, match=r"made its layers larger \('a' is the first\).* ratios up to 1"):
        OFA(model, example_inputs=paddle.ones([1, 4]))


def test_the_published_arguments_of_elastic_layers() -> None:
    conv = "in_channels out_channels kernel_size candidate_config transform_kernel stride padding"
    rest = "weight_attr bias_attr data_format"
    published = {
        layers.SuperConv2D: f"{conv} dilation groups padding_mode {rest}",
        layers.SuperGroupConv2D: f"{conv} dilation groups padding_mode {rest}",
        layers.SuperDepthwiseConv2D: f"{conv} dilation groups padding_mode {rest}",
        layers.SuperConv2DTranspose: f"{conv} output_padding dilation groups {rest}",
        layers.SuperSeparableConv2D: "in_channels out_channels kernel_size candidate_config stride padding dilation "
        "norm_layer bias_attr scale_factor",
        layers.SuperLinear: "in_features out_features candidate_config weight_attr bias_attr name",
        layers.SuperEmbedding: "num_embeddings embedding_dim candidate_config padding_idx sparse weight_attr name",
        layers.SuperLayerNorm: "normalized_shape epsilon weight_attr bias_attr name",
        layers.Block: "fn fixed key",
    }
    newer = ("bias", "device", "dtype", "elementwise_affine")  # what later releases of Paddle add
    for layer, names in published.items():
        assert " ".join(name for name in inspect.signature(layer).parameters if name not in newer) == names
    for norm in (layers.SuperBatchNorm2D, layers.SuperInstanceNorm2D):
        given = dict(momentum=0.8, epsilon=1e-4, weight_attr=None, bias_attr=None, data_format="NCHW", name="norm")
        assert norm(5, **given)._epsilon == 1e-4
    asked = ("kernel_size", "expand_ratio", "channel")
    for layer, keys in (
        (layers.SuperConv2D, asked),
        (layers.SuperLinear, asked[1:]),
        (layers.SuperEmbedding, asked[1:]),
    ):
        assert tuple(inspect.signature(layer.forward).parameters)[2:] == keys
    assert tuple(inspect.signature(layers.SuperConv2DTranspose.forward).parameters)[2:] == ("output_size", *asked)


@pytest.mark.parametrize("kind", [nn.Conv2D, nn.Conv2DTranspose])
@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("choices", [{"expand_ratio": [1, 1.5, 2]}, {"channel": "lists"}])
def test_a_depthwise_convolution_grows_with_what_comes_in(
    kind: type[nn.Layer], times: int, choices: dict[str, Any]
) -> None:
    depthwise = kind(4, 4 * times, 3, groups=4, padding=1)
    model = nn.Sequential(
        nn.Conv2D(3, 4, 3, padding=1), depthwise, nn.BatchNorm2D(4 * times), nn.Conv2D(4 * times, 5, 1)
    )
    model.eval()
    images = paddle.rand([2, 3, 8, 8])
    expected = model(images)
    if "channel" in choices:
        choices = {"channel": [[4, 6, 8], [4 * times, 6 * times, 8 * times], [5]]}
    ofa = OFA(Convert(supernet(**choices)).convert(model), example_inputs=images)
    ofa.eval()
    assert [(axis.size, axis.choices) for axis in ofa.search_space.axes] == [(8, (4, 6, 8))]
    with ofa.subnet(ofa.search_space.original()):
        assert float((ofa(images) - expected).abs().max()) < 1e-5
    config = ofa.search_space.complete({ofa.search_space.axes[0].name: 6})
    with ofa.subnet(config):
        wanted = ofa(images)
    plain = ofa.export(config=config, input_shapes=[2, 3, 8, 8])
    assert plain[1]._groups == 6
    assert float((plain(images) - wanted).abs().max()) < 1e-5
