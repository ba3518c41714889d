from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models import Tagger, encoder
from ofa_slim import OFA, Convert, SearchSpace, SubnetConfig, supernet
from ofa_slim.errors import ConfigError, IllegalSubnetError
from ofa_slim.supernet import Axis
from ofa_slim.supernet.layers import kept_layers

SPACE = SearchSpace(
    [
        Axis("a.heads", 12, (3, 6, 12), whole=True),
        Axis("a.ffn", 50, (12, 25, 50)),
        Axis("a.depth", 6, (3, 6), task="depth"),
        Axis("b.ffn", 8, (8,)),
    ]
)


def test_configs_are_hashable_mappings_that_cannot_be_changed() -> None:
    one, other = SubnetConfig({"x": 1, "y": 2}), SubnetConfig({"y": 2, "x": 1})
    assert one == other
    assert len({one, other}) == 1
    assert dict(one) == {"x": 1, "y": 2}
    with pytest.raises(TypeError):
        one["x"] = 3  # type: ignore[index]
    with pytest.raises(AttributeError):
        one.z = 3  # type: ignore[attr-defined]


@given(sizes=st.dictionaries(st.text(min_size=1), st.integers(1, 10_000)))
def test_configs_survive_json(sizes: dict[str, int]) -> None:
    config = SubnetConfig(sizes)
    assert SubnetConfig.from_json(config.to_json()) == config
    assert eval(repr(config)) == config


@pytest.mark.parametrize("text", ["", "[1]", '{"x": -1}', '{"x": 1.5}', '{"x": true}', "{'x': 1}"])
def test_json_that_is_not_a_config_is_refused(text: str) -> None:
    with pytest.raises(IllegalSubnetError):
        SubnetConfig.from_json(text)


def test_largest_smallest_and_samples_are_made_of_choices() -> None:
    assert dict(SPACE.largest()) == {"a.heads": 12, "a.ffn": 50, "a.depth": 6, "b.ffn": 8}
    assert dict(SPACE.smallest()) == {"a.heads": 3, "a.ffn": 12, "a.depth": 3, "b.ffn": 8}
    rng = np.random.default_rng(0)
    seen = [SPACE.sample(rng) for _ in range(200)]
    for axis in SPACE.axes:
        assert {config[axis.name] for config in seen} == set(axis.choices)
    assert seen[:5] == [SPACE.sample(r) for r in [np.random.default_rng(0)] for _ in range(5)]


def test_sampling_follows_what_is_offered() -> None:
    rng = np.random.default_rng(0)
    seen = [SPACE.sample(rng, {"width": 2}) for _ in range(100)]
    assert {config["a.ffn"] for config in seen} == {25, 50}
    assert {config["a.depth"] for config in seen} == {6}


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"a.head": 3}, r"no axis 'a.head'; did you mean 'a.heads'\?"),
        ({"a.heads": 13}, "axis 'a.heads': size 13 is not a whole number between 1 and 12"),
        ({"a.heads": 0}, "size 0"),
        ({"a.heads": 2.0}, "size 2.0"),
        ({"a.heads": True}, "size True"),
    ],
)
def test_illegal_sizes_name_the_axis_and_what_is_allowed(sizes: dict[str, int], message: str) -> None:
    with pytest.raises(IllegalSubnetError, match=message):
        SPACE.complete(sizes)


def test_completing_fills_in_full_sizes_and_takes_unlisted_ones() -> None:
    assert SPACE.complete({"a.ffn": 7}) == SubnetConfig({**SPACE.largest(), "a.ffn": 7})


@given(size=st.integers(1, 4096), part=st.data())
def test_a_share_of_an_axis_round_trips(size: int, part: st.DataObject) -> None:
    units = part.draw(st.integers(1, size))
    assert Axis("x", size, (size,), whole=True).from_ratio(units / size) == units


def test_shares_are_rounded_down_but_never_to_nothing() -> None:
    axis = Axis("x", 10, (10,))
    assert [axis.from_ratio(ratio) for ratio in (0.01, 0.19, 0.2, 0.99, 1)] == [1, 1, 2, 9, 10]


def test_a_share_of_heads_must_be_whole_and_the_error_says_which_are() -> None:
    with pytest.raises(IllegalSubnetError, match=r"expand_ratio 0.3 of 4 .* are 0.25, 0.5, 0.75, 1$"):
        Axis("heads", 4, (4,), whole=True).from_ratio(0.3)


@pytest.mark.parametrize("ratio", [0, -1, 1.5, "0.5", None, True, float("nan")])
def test_a_share_outside_the_axis_is_refused(ratio: object) -> None:
    with pytest.raises(IllegalSubnetError, match="expand_ratio"):
        Axis("x", 10, (10,)).from_ratio(ratio)  # type: ignore[arg-type]


def test_axes_check_their_choices() -> None:
    assert Axis("x", 4, (4, 2, 2)).choices == (2, 4)
    with pytest.raises(ConfigError, match="no choices"):
        Axis("x", 4, ())
    with pytest.raises(IllegalSubnetError, match="size 5"):
        Axis("x", 4, (5,))
    with pytest.raises(ConfigError, match="two axes share one name"):
        SearchSpace([Axis("x", 4, (4,)), Axis("x", 2, (2,))])


def test_explain_lists_every_axis_and_every_fixed_layer_with_its_reason() -> None:
    model = Convert(supernet(expand_ratio=[1.0, 0.5])).convert(Tagger())
    text = OFA(model).search_space.explain()
    for expected in (
        "body.0.heads (width, full size 4): 2, 4 <- body.layers.0.self_attn.q_proj",
        "body.1.ffn (width, full size 24): 12, 24 <- body.layers.1.linear1, body.layers.1.linear2",
        "body.depth (depth, full size 2): fixed at 2",
        "head: its width is that of the residual stream, an input or an output",
    ):
        assert expected in text


@given(full=st.integers(1, 48), data=st.data())
def test_kept_layers_are_spread_evenly_and_end_with_the_last(full: int, data: st.DataObject) -> None:
    depth = data.draw(st.integers(1, full))
    kept = kept_layers(depth, full)
    assert len(kept) == depth
    assert kept[-1] == full - 1
    gaps = np.diff((-1, *kept))
    assert gaps.min() >= 1
    assert gaps.max() - gaps.min() <= 1


def test_kept_layers_are_those_of_dynabert() -> None:
    # 12 layers counted from 1: at three quarters the layers 3, 7 and 11 go, at a half every odd one.
    assert [i + 1 for i in kept_layers(9, 12)] == [1, 2, 4, 5, 6, 8, 9, 10, 12]
    assert [i + 1 for i in kept_layers(6, 12)] == [2, 4, 6, 8, 10, 12]


def test_several_stacks_are_named_by_their_paths() -> None:
    import paddle

    model = paddle.nn.Sequential(encoder(1), encoder(2))
    Convert(supernet(expand_ratio=[1.0, 0.5])).convert(model)
    names = [axis.name for axis in OFA(model).search_space.axes if axis.task == "depth"]
    assert names == ["0.depth", "1.depth"]
