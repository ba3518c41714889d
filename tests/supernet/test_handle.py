from __future__ import annotations

import numpy as np
import paddle
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models import batch, bert, difference, ofa_of
from ofa_slim.errors import ConfigError, IllegalSubnetError
from ofa_slim.supernet.handle import Supernet
from ofa_slim.supernet.subnet_config import SubnetConfig

OFA = ofa_of(bert(layers=2), ratios=[1.0, 0.5, 0.25])
SPACE = OFA.search_space


@st.composite
def configs(draw: st.DrawFn) -> SubnetConfig:
    return SubnetConfig({axis.name: draw(st.sampled_from(axis.choices)) for axis in SPACE.axes})


def output() -> paddle.Tensor:
    OFA.model.eval()
    with paddle.no_grad():
        return OFA.model(*batch())


@given(one=configs(), other=configs())
def test_using_a_config_ends_where_it_began(one: SubnetConfig, other: SubnetConfig) -> None:
    supernet = OFA.supernet
    supernet.activate(one)
    before = output()
    with supernet.using(other):
        assert supernet.active == other
    assert supernet.active == one
    assert difference(output(), before) == 0


@given(config=configs())
def test_the_whole_model_runs_in_full_and_the_subnet_after_it(config: SubnetConfig) -> None:
    supernet = OFA.supernet
    supernet.activate(SPACE.largest())
    whole = output()
    supernet.activate(config)
    with supernet.full():
        assert difference(output(), whole) == 0
    assert supernet.active == config


def test_an_error_inside_the_block_leaves_the_subnet_of_before() -> None:
    supernet, small = OFA.supernet, SPACE.smallest()
    supernet.activate(SPACE.largest())
    with pytest.raises(RuntimeError, match="inside"), supernet.using(small):
        raise RuntimeError("inside")
    assert supernet.active == SPACE.largest()


@given(config=configs())
def test_kept_layer_sizes_are_those_of_the_space(config: SubnetConfig) -> None:
    for _ in range(2):
        assert OFA.supernet.layer_sizes(config) == SPACE.layer_sizes(config)


@given(config=configs())
def test_configs_are_read_in_either_form(config: SubnetConfig) -> None:
    supernet = OFA.supernet
    assert supernet.config(config) == config
    assert supernet.config(supernet.codec.from_config(config)) == config


def test_what_is_no_supernet_is_named() -> None:
    with pytest.raises(ConfigError, match="this is a Linear, not a supernet"):
        Supernet.of(paddle.nn.Linear(2, 2))
    with pytest.raises(IllegalSubnetError, match="nowhere"):
        OFA.supernet.config(SubnetConfig({"nowhere": 1}))


def test_an_ofa_and_its_supernet_are_the_same_to_whoever_takes_either() -> None:
    assert Supernet.of(OFA) is OFA.supernet
    assert Supernet.of(OFA.supernet) is OFA.supernet


def test_examples_are_the_same_inputs_each_time() -> None:
    one, other = (OFA.supernet.example([[2, 8], [2, 8]]) for _ in range(2))
    assert all(np.array_equal(a.numpy(), b.numpy()) for a, b in zip(one.tensors, other.tensors, strict=True))
