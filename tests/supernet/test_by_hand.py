"""Supernets that are written by hand, of elastic layers and blocks."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
import pytest
from paddle import nn

from models import difference
from ofa_slim import OFA, RunConfig
from ofa_slim.errors import ConfigError, ConvertError, IllegalSubnetError
from ofa_slim.supernet import (
    Block,
    SuperBatchNorm2D,
    SuperConv2D,
    SuperConv2DTranspose,
    SuperDepthwiseConv2D,
    SuperEmbedding,
    SuperLinear,
    SuperSeparableConv2D,
)
from ofa_slim.supernet.layers import ElasticLayer

X = paddle.to_tensor(np.random.default_rng(0).standard_normal((2, 3, 8, 8)), dtype="float32")
SHAPE = [2, 3, 8, 8]


def same_when_exported(ofa: OFA, count: int = 5) -> None:
    ofa.eval()
    for seed in range(count):
        config = ofa.search_space.sample(np.random.default_rng(seed))
        plain = ofa.export(config=config, input_shapes=SHAPE)
        with ofa.subnet(config):
            assert difference(plain(X), ofa(X)) < 1e-5
        assert not any(isinstance(layer, ElasticLayer) for layer in plain.sublayers(include_self=True))
        assert type(plain) is type(ofa.model)


def test_a_layer_is_as_large_as_the_largest_of_its_choices() -> None:
    choices = {"kernel_size": (3, 5, 7), "channel": (4, 8, 16)}
    for conv, weight in (
        (SuperConv2D(3, 4, 3, choices, padding=1), [16, 3, 7, 7]),
        (SuperConv2DTranspose(3, 4, 3, choices, padding=1), [3, 16, 7, 7]),
    ):
        assert conv.weight.shape == weight
        for kernel in (3, 4, 7):
            assert conv(X, kernel_size=kernel, channel=4).shape == [2, 4, 8, 8]
    assert SuperConv2D(3, 4, 3, {"kernel_size": (3, 5)}, padding=1, padding_mode="reflect")(X).shape == [2, 4, 8, 8]
    assert SuperLinear(3, 4, {"channel": (4, 8)}).weight.shape == [3, 8]
    assert SuperEmbedding(3, 4, {"channel": (4, 8)}).weight.shape == [3, 8]
    assert SuperDepthwiseConv2D(3, 3, 3, {"channel": (3, 6)}).weight.shape == [3, 1, 3, 3]


def test_ratios_above_one_are_counted_down_from_the_width_of_the_layer() -> None:
    layer = SuperConv2D(3, 16, 3, {"expand_ratio": (1, 2, 4)}, padding=1)
    assert [layer(X, expand_ratio=ratio).shape[1] for ratio in (1, 2, 4)] == [4, 8, 16]
    assert SuperLinear(3, 16, {"expand_ratio": (0.25, 0.5)})(paddle.ones([1, 3]), expand_ratio=0.5).shape == [1, 8]
    ofa = OFA(nn.Sequential(layer, SuperBatchNorm2D(16), SuperConv2D(16, 2, 1)), example_inputs=X)
    assert ofa.ofa_layers == {"0": {"expand_ratio": (1.0, 2.0, 4.0)}}
    assert dict(ofa.subnet_config({"0": {"expand_ratio": 2}})) == {"0": 8}
    assert dict(ofa.search_space.original()) == dict(ofa.search_space.largest()) == {"0": 16}
    with pytest.raises(IllegalSubnetError, match="expand_ratio 8 is not a number above 0 and at most 4"):
        ofa.set_net_config({"0": {"expand_ratio": 8}})
    same_when_exported(ofa)


def test_layers_that_must_agree_need_the_same_meaning_of_a_ratio() -> None:
    class Residual(nn.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.a = SuperConv2D(3, 8, 1, {"expand_ratio": (1, 2)})
            self.b = SuperConv2D(3, 8, 1, {"expand_ratio": (0.5, 1)})
            self.c = SuperConv2D(8, 2, 1)

        def forward(self, x: paddle.Tensor) -> paddle.Tensor:
            return self.c(self.a(x) + self.b(x))

    with pytest.raises(ConvertError, match=r"axis 'a': an expand_ratio of 1 is not .* \{'a': 4, 'b': 8\}"):
        OFA(Residual(), example_inputs=X)


def blocks(**options: Any) -> nn.Sequential:
    return nn.Sequential(
        Block(SuperConv2D(3, 8, 5, {"kernel_size": (3, 5), "channel": (4, 8)}, padding=2), **options),
        SuperBatchNorm2D(8),
        Block(SuperDepthwiseConv2D(8, 8, 3, padding=1), fixed=True),
        Block(SuperSeparableConv2D(8, 6, 3, {"expand_ratio": (0.5, 1.0)}, padding=1)),
        SuperConv2D(6, 2, 1),
    )


def test_a_block_is_elastic_unless_it_is_fixed() -> None:
    ofa = OFA(blocks(), example_inputs=X)
    assert ofa.ofa_layers == {
        "0.fn": {"kernel_size": (3, 5), "expand_ratio": (0.5, 1.0)},
        "3.fn.pointwise": {"expand_ratio": (0.5, 1.0)},
    }
    same_when_exported(ofa)
    ofa = OFA(blocks(fixed=True), example_inputs=X)
    assert ofa.ofa_layers == {"3.fn.pointwise": {"expand_ratio": (0.5, 1.0)}}
    assert "0.fn: the Block of '0.fn' is fixed" in ofa.search_space.explain()
    with pytest.raises(IllegalSubnetError, match=r"size 4 is not 8: the Block of '0.fn' is fixed"):
        ofa.set_net_config({"0": {"channel": 4}})
    same_when_exported(ofa)
    # Tasks are told before the first batch, and fixed blocks have none.
    ofa = OFA(blocks(fixed=True), RunConfig(n_epochs=[[1, 2]]))
    assert ofa(X).shape == [2, 2, 8, 8]


def test_a_block_goes_by_its_path_its_full_name_its_key_and_the_names_of_its_layer() -> None:
    model = blocks(key="stem")
    ofa = OFA(model, example_inputs=X)
    for name in ("0", "0.fn", "stem", model[0].full_name(), model[0].fn.full_name()):
        assert ofa.subnet_config({name: {"channel": 4, "kernel_size": 3}})["0.fn"] == 4
    for name in ("3", "3.fn", "3.fn.pointwise", model[3].full_name(), model[3].fn.full_name()):
        assert ofa.subnet_config({name: {"channel": 3}})["3.fn.pointwise"] == 3
    with pytest.raises(ConfigError, match="skip_layers: no layer is called 'stam'; did you mean 'stem'"):
        OFA(model, RunConfig(skip_layers=["stam"]), example_inputs=X)
    assert list(OFA(model, RunConfig(skip_layers=["stem"]), example_inputs=X).ofa_layers) == ["3.fn.pointwise"]


def test_an_input_that_is_too_wide_is_named() -> None:
    with pytest.raises(IllegalSubnetError, match=r"super_linear_\d+: 64 input channels; at most 32"):
        SuperLinear(32, 64)(paddle.ones([2, 64]))


def test_the_shapes_given_to_export_serve_as_the_example() -> None:
    ofa = OFA(blocks())
    ofa.set_net_config({"0": {"channel": 4}})
    plain = ofa.export(config={"3": {"channel": 3}}, input_shapes=SHAPE, input_dtypes=["float32"])
    assert plain[4].weight.shape == [2, 3, 1, 1]
    assert dict(ofa.net_config or {}) == {"0.fn.kernel_size": 5, "0.fn": 4, "3.fn.pointwise": 6}
