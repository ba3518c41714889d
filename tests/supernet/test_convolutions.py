"""Supernets of convolutional models, from converting to saved files."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from hypothesis import given
from hypothesis import strategies as st
from paddle import nn
from paddle.static import InputSpec

from models import difference
from ofa_slim import OFA, Convert, RunConfig, load_subnet, save_subnet, supernet, to_static
from ofa_slim.errors import ConfigError, ConvertError, ExportError
from ofa_slim.supernet.layers import ElasticLayer

CLOSE = 1e-5


class Net(nn.Layer):
    """A stem, two branches that are concatenated, a grouped and a depthwise convolution, a linear head."""

    def __init__(self, groups: int = 2, width: int = 8) -> None:
        super().__init__()
        self.stem = nn.Conv2D(3, width, 3, padding=1)
        self.norm = nn.BatchNorm2D(width)
        self.left = nn.Conv2D(width, width, 5, padding=2)
        self.right = nn.Conv2D(width, 6, 1)
        self.mixed = nn.Conv2D(width + 6, 2 * width, 3, padding=1)
        self.grouped = nn.Conv2D(2 * width, 2 * width, 3, padding=1, groups=groups)
        self.depthwise = nn.Conv2D(2 * width, 2 * width, 3, padding=1, groups=2 * width)
        self.head = nn.Linear(2 * width * 16, 4)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        x = F.relu(self.norm(self.stem(x)))
        x = paddle.concat([self.left(x), self.right(x)], axis=1)
        x = F.relu(self.grouped(F.relu(self.mixed(x))))
        return self.head(F.max_pool2d(self.depthwise(x), 2).flatten(1))


X = paddle.to_tensor(np.random.default_rng(0).standard_normal((2, 3, 8, 8)), dtype="float32")
SHAPE = [2, 3, 8, 8]


def net(**options: int) -> Net:
    model = Net(**options)
    # Statistics and scales that are not neutral, so that mixing up channels shows.
    rng = np.random.default_rng(1)
    for name in ("_mean", "_variance", "weight", "bias"):
        parameter = getattr(model.norm, name)
        parameter.set_value((0.5 + rng.random(parameter.shape)).astype("float32"))
    model.eval()
    return model


def ofa_of(model: nn.Layer, **asked: object) -> OFA:
    return OFA(Convert(supernet(**asked)).convert(model), example_inputs=X)  # type: ignore[arg-type]


@given(
    groups=st.sampled_from([1, 2, 4]),
    ratios=st.sampled_from([(0.5, 1.0), (0.25, 0.5, 1.0), (1.0, 2.0), (0.5, 1.0, 1.5), (1.0, 2.0, 4.0)]),
    kernels=st.sampled_from([None, (3, 5), (2, 3, 5, 7), (3, 7)]),
    seed=st.integers(0, 100),
)
def test_the_truths_hold_whatever_is_asked_for(
    groups: int, ratios: tuple[float, ...], kernels: tuple[int, ...] | None, seed: int
) -> None:
    model = net(groups=groups)
    expected, keys = model(X), list(model.state_dict())
    ofa = ofa_of(model, expand_ratio=list(ratios), kernel_size=kernels)
    assert list(model.state_dict()) == keys
    space = ofa.search_space
    with ofa.subnet(space.original()):
        assert difference(ofa(X), expected) < CLOSE
    config = space.sample(np.random.default_rng(seed))
    with ofa.subnet(config):
        inside = ofa(X)
    plain = ofa.export(config=config, input_shapes=SHAPE)
    assert difference(plain(X), inside) < CLOSE
    assert not any(isinstance(layer, ElasticLayer) for layer in plain.sublayers(include_self=True))


@given(seed=st.integers(0, 100))
def test_weights_outside_the_active_part_get_no_gradient(seed: int) -> None:
    model = net()
    ofa = ofa_of(model, expand_ratio=[0.25, 0.5, 1.0], kernel_size=(3, 5))
    config = ofa.search_space.sample(np.random.default_rng(seed))
    ofa.set_net_config(config)
    ofa.train()
    (ofa(X) ** 2).sum().backward()
    for path, sizes in ofa.search_space.layer_sizes(config).items():
        layer = dict(model.named_sublayers())[path]
        gradient = layer.weight.grad
        active = layer.part("weight", sizes)
        outside = np.prod(gradient.shape) - np.prod(active.shape)
        assert int((gradient == 0).sum()) >= outside
        assert gradient.abs().sum() > 0


def test_no_parameter_is_replaced_once_a_model_is_converted() -> None:
    model = net()
    Convert(supernet(expand_ratio=[1.0, 2.0], kernel_size=(3, 5, 7))).convert(model)
    before = {key: id(value) for key, value in model.state_dict().items()}
    ofa = OFA(model)
    ofa.train()
    for _ in range(3):
        ofa(X).sum().backward()
    ofa.export(config=ofa.search_space.smallest(), input_shapes=SHAPE)
    assert {key: id(value) for key, value in model.state_dict().items()} == before
    assert all(value.grad is not None for value in model.parameters() if not value.stop_gradient)


def test_a_depthwise_and_a_grouped_convolution_are_exported_with_their_groups() -> None:
    ofa = ofa_of(net(groups=4), expand_ratio=[0.5, 1.0])
    plain = ofa.export(config=ofa.search_space.smallest(), input_shapes=SHAPE)
    assert plain.grouped.weight.shape == [8, 2, 3, 3]
    assert plain.grouped._groups == 4
    assert plain.depthwise.weight.shape == [8, 1, 3, 3]
    assert plain.depthwise._groups == 8


def test_an_exported_model_goes_in_the_place_of_the_original_one() -> None:
    model = net()
    origin, other = copy.deepcopy(model), nn.Sequential(nn.Conv2D(3, 4, 3))
    ofa = ofa_of(model, expand_ratio=[0.5, 1.0, 2.0], kernel_size=(3, 5, 7))
    for config in (ofa.search_space.smallest(), ofa.search_space.largest()):
        given = copy.deepcopy(origin)
        with ofa.subnet(config):
            expected = ofa(X)
        assert ofa.export(given, config, SHAPE, ["float32"]) is given
        assert difference(given(X), expected) < CLOSE
    with pytest.raises(ExportError, match="another structure"):
        ofa.export(other, ofa.search_space.smallest(), SHAPE)
    with pytest.raises(ExportError, match="the supernet is larger than origin_model"):
        ofa.export(origin, ofa.search_space.smallest(), SHAPE, load_weights_from_supernet=False)


def test_kernel_transforms_are_merged_by_the_export() -> None:
    model = nn.Sequential(nn.Conv2D(3, 4, 5, padding=2), nn.Conv2D(4, 2, 1))
    Convert(supernet(kernel_size=(3, 5))).convert(model)
    model[0].add_transforms((3, 5))
    matrix = model[0].transform_5_to_3
    matrix.set_value(matrix + 0.1 * paddle.randn(matrix.shape))
    ofa = OFA(model, example_inputs=X)
    config = ofa.search_space.smallest()
    with ofa.subnet(config):
        expected = ofa(X)
    origin = nn.Sequential(nn.Conv2D(3, 4, 5, padding=2), nn.Conv2D(4, 2, 1))
    for plain in (ofa.export(config=config, input_shapes=SHAPE), ofa.export(origin, config, SHAPE)):
        assert difference(plain(X), expected) < CLOSE
        assert list(plain.state_dict()) == ["0.weight", "0.bias", "1.weight", "1.bias"]


@pytest.mark.parametrize("ratios", [[0.5, 1.0], [1.0, 2.0]])
def test_saved_models_are_rebuilt_from_a_fresh_one(ratios: list[float], tmp_path: Path) -> None:
    ofa = ofa_of(net(groups=2), expand_ratio=ratios, kernel_size=(3, 5, 7))
    config = ofa.search_space.sample(np.random.default_rng(0))
    plain = ofa.export(config=config, input_shapes=SHAPE)
    save_subnet(plain, tmp_path / "saved")
    assert difference(load_subnet(tmp_path / "saved", net())(X), plain(X)) < CLOSE
    with pytest.raises(ExportError, match=r"names layer .*, which the model does not have so"):
        load_subnet(tmp_path / "saved", nn.Sequential(nn.Linear(2, 2)))
    to_static(plain, tmp_path / "static", [InputSpec([None, 3, 8, 8], "float32", name="x")])


def test_statistics_are_re_estimated_for_one_sub_network() -> None:
    model = net()
    ofa = ofa_of(model, expand_ratio=[0.5, 1.0])
    batches = [X + shift for shift in (0.0, 1.0, 2.0)]
    config = ofa.search_space.smallest()
    with pytest.raises(ConfigError, match="recalibrate needs a sub-network"):
        ofa.recalibrate(batches)
    plain = ofa.export(config=config, input_shapes=SHAPE, loader=batches)
    before = model.norm._mean.numpy()
    with ofa.subnet(config):
        assert ofa.recalibrate(((batch, 0) for batch in batches), batches=3) == 3
        inside = ofa(X)
    assert difference(plain(X), inside) < CLOSE
    channels = [model.stem(batch).transpose([1, 0, 2, 3]).flatten(1)[:4].mean(axis=1).numpy() for batch in batches]
    assert np.allclose(model.norm._mean.numpy()[:4], np.mean(channels, axis=0), atol=1e-5)
    assert np.array_equal(model.norm._mean.numpy()[4:], before[4:])
    assert model.norm._momentum == 0.9
    with pytest.raises(ConfigError, match="the loader gave no batch"):
        ofa.export(config=config, input_shapes=SHAPE, loader=[])


def test_a_list_of_channels_leaves_the_last_layer_and_depthwise_ones_as_they_follow() -> None:
    with supernet(channel=((4, 8), (6, 10), (8, 16), (5, 9))) as context:
        layers = context.convert(
            [
                nn.Conv2D(3, 4, 3, padding=1),
                nn.Conv2D(4, 4, 3, padding=1, groups=4),
                nn.Conv2DTranspose(4, 8, 3, padding=1),
                nn.Conv2D(8, 3, 3, padding=1),
            ]
        )
    assert nn.Sequential(*layers)(X).shape == [2, 3, 8, 8]
    ofa = OFA(nn.Sequential(*layers), example_inputs=X)
    assert {axis.name: axis.choices for axis in ofa.search_space.axes if axis.elastic} == {"0": (4, 8), "2": (8, 16)}


def test_transposed_convolutions_in_groups_grow() -> None:
    model = nn.Sequential(nn.Conv2D(3, 4, 1), nn.Conv2DTranspose(4, 4, 3, padding=1, groups=2), nn.Conv2D(4, 2, 1))
    expected = model(X)
    ofa = OFA(Convert(supernet(expand_ratio=(1, 2))).convert(model), example_inputs=X)
    assert ofa.search_space["1"].choices == (2, 4)  # of each group
    ofa.set_net_config({"0": {"expand_ratio": 1}, "1": {"expand_ratio": 1}})
    assert difference(ofa(X), expected) < CLOSE


@pytest.mark.parametrize("kind", [nn.Conv2D, nn.Conv2DTranspose])
def test_depthwise_convolutions_on_the_inputs_or_the_outputs_do_not_grow(kind: type[nn.Layer]) -> None:
    sizes = ((3, 3, 3), (3, 4, 1), (4, 4, 4), (4, 2, 1), (2, 2, 2))
    model = nn.Sequential(*(kind(a, b, 3, padding=1, groups=groups) for a, b, groups in sizes))
    expected = model(X)
    ofa = OFA(Convert(supernet(expand_ratio=[2.0, 1.0])).convert(model), example_inputs=X)
    assert {axis.name: axis.choices for axis in ofa.search_space.axes if axis.elastic} == {"1": (4, 8)}
    plain = ofa.export(config=ofa.search_space.original(), input_shapes=[X.shape])
    assert difference(plain(X), expected) < CLOSE


class There(nn.Layer):
    """There and back with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.up, self.last = nn.Linear(4, 6), nn.Linear(6, 3), nn.Linear(6, 2)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.last(paddle.matmul(self.up(self.first(x)), self.up.weight.t()))


def test_a_forward_that_cannot_run_at_the_size_before_growth_is_refused() -> None:
    model = Convert(supernet(expand_ratio=[2.0, 1.0])).convert(There())
    with pytest.raises(ConvertError, match=r"larger \('first' is the first\).*There.*at its own size it fails with"):
        OFA(model, example_inputs=paddle.ones([2, 4]))


def test_nothing_grows_where_no_layer_has_a_width_of_its_own() -> None:
    with pytest.raises(ConvertError, match="can be elastic"):
        Convert(supernet(expand_ratio=[2.0, 1.0])).convert(nn.Sequential(nn.MaxPool2D(3), nn.BatchNorm2D(3)))


def test_what_keeps_its_kernel_is_explained() -> None:
    sizes = [(3, 4, 7, 3), (4, 4, 5, 0), (4, 4, (1, 3), 0), (4, 2, 3, 1)]
    model = nn.Sequential(*(nn.Conv2D(a, b, kernel, padding=padding) for a, b, kernel, padding in sizes))
    text = ofa_of(model, kernel_size=(3, 5)).search_space.explain()
    assert "0: its kernel size 7 is not between 2 and 5, the largest choice" in text
    assert "1: its padding 0 is too small for a kernel smaller than 5" in text
    assert "2: its kernel 1 x 3 is not square" in text
    assert "3.kernel_size (kernel_size, full size 5): 3, 5 <- 3" in text


def test_growth_that_cannot_be_is_refused() -> None:
    with pytest.raises(ConvertError, match="only one list for all can have ratios above 1"):
        supernet(expand_ratio={"stem": [2.0]})
    model = Convert(supernet(expand_ratio=[1.0, 0.5])).convert(net())
    with pytest.raises(ConvertError, match="already a supernet and cannot grow"):
        Convert(supernet(expand_ratio=[2.0])).convert(model)
    with pytest.raises(ConvertError, match="which its 4 groups do not divide"):
        Convert(supernet(expand_ratio=[1.1])).convert(net(groups=4))


def test_channels_grow_a_chain_layer_by_layer() -> None:
    model = nn.Sequential(nn.Conv2D(3, 4, 3), nn.BatchNorm2D(4), nn.Conv2D(4, 4, 3), nn.Flatten(), nn.Linear(64, 2))
    model.eval()
    expected = model(X)
    ofa = ofa_of(model, channel=[(4, 8, 12), (2, 4)])
    assert {axis.name: axis.choices for axis in ofa.search_space.axes} == {"0": (4, 8, 12), "2": (2, 4)}
    with ofa.subnet(ofa.search_space.original()):
        assert difference(ofa(X), expected) < CLOSE


class Deep(nn.Layer):
    """Four residual convolutions, of which its forward runs as many as it is told, and a norm behind them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2D(3, 4, 3, padding=1)
        self.body = nn.LayerList([nn.Conv2D(4, 4, 5, padding=2) for _ in range(4)])
        self.norm = nn.BatchNorm2D(4)
        self.head = nn.Linear(4, 2)
        self.seen: list[int] = []

    def forward(self, x: paddle.Tensor, depth: int) -> paddle.Tensor:
        self.seen.append(depth)
        x = self.stem(x)
        for layer in self.body[:depth]:
            x = F.relu(layer(x)) + x
        return self.head(self.norm(x).mean([2, 3]))


def test_progressive_shrinking_passes_depth_to_a_forward_that_takes_it() -> None:
    model = Deep()
    Convert(supernet(kernel_size=(3, 5), expand_ratio=[0.5, 1.0])).convert(model)
    run = RunConfig(n_epochs=[[1], [2], [3]], elastic_depth=(2, 4))
    ofa = OFA(model, run, example_inputs=X)
    model.seen.clear()
    phases = [((3, 5), (4,), (4,)), ((3, 5), (2, 4), (4,)), ((3, 5), (2, 4), (2, 4))]
    for epoch, (kernels, widths, depths) in enumerate(phases):
        ofa.set_epoch(epoch)
        seen = []
        for _ in range(30):
            ofa(X)
            seen.append(ofa.subnet_config(ofa.current_config or {}))
        assert {config["stem"] for config in seen} == set(widths)
        assert {config["body.0.kernel_size"] for config in seen} == set(kernels)
        assert {config["depth"] for config in seen} == set(depths)
    assert set(model.seen) == {2, 4}


def test_statistics_are_re_estimated_at_the_depth_of_the_config() -> None:
    model = Deep()
    Convert(supernet(expand_ratio=[0.5, 1.0])).convert(model)
    ofa = OFA(model, RunConfig(elastic_depth=(2, 4)), example_inputs=X)
    model.eval()
    model.seen.clear()
    config = ofa.search_space.smallest()
    # The second entry of a batch is its labels: no depth.
    plain = ofa.export(config=config, input_shapes=SHAPE, loader=[(X, 3)])
    with ofa.subnet(config):
        ofa.recalibrate([(X, 3), X])
        inside = ofa(X)
    assert set(model.seen) == set(plain.seen) == {2}
    assert difference(plain(X, depth=2), inside) < CLOSE


def test_two_wrappers_one_after_the_other_see_the_same_model() -> None:
    model = net()
    first = ofa_of(model, expand_ratio=[0.5, 1.0], kernel_size=(3, 5))
    config = first.search_space.smallest()
    first.set_net_config(config)
    expected = first(X)
    second = OFA(model, example_inputs=X)
    assert second.search_space.explain() == first.search_space.explain()
    second.set_net_config(config)
    assert difference(second(X), expected) == 0


def test_converting_copies_no_weight() -> None:
    model = net()
    Convert(supernet(expand_ratio=[0.5, 1.0])).convert(model)
    before = {key: value.data_ptr() for key, value in model.state_dict().items()}
    ofa = OFA(model, example_inputs=X)
    ofa(X)
    assert {key: value.data_ptr() for key, value in model.state_dict().items()} == before
