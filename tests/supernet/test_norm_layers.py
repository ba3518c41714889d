"""Elastic norms and PReLU against small plain layers that got copied weights; chains of layers; programs."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
import pytest
from hypothesis import given
from hypothesis import strategies as st
from paddle import nn

from models import difference
from ofa_slim.errors import IllegalSubnetError
from ofa_slim.supernet import (
    SuperBatchNorm1D,
    SuperBatchNorm2D,
    SuperBatchNorm3D,
    SuperConv2D,
    SuperGroupNorm,
    SuperInstanceNorm1D,
    SuperInstanceNorm2D,
    SuperInstanceNorm3D,
    SuperLayerNorm,
    SuperLinear,
    SuperPReLU,
    SuperSyncBatchNorm,
)
from ofa_slim.supernet.layers import swap_back, swap_class
from ofa_slim.supernet.spec import cut_plain, length, ranges_of, spec_of

CLOSE = 1e-5
FULL = 6
# Paddle says so in every training step of its own batch norm.
TRACKS = "ignore:When training, we now always track global mean and variance:UserWarning"

BATCH_NORMS = [
    (SuperBatchNorm1D, [4, 3], "NCL"),
    (SuperBatchNorm1D, [4], "NCL"),
    (SuperBatchNorm2D, [4, 3, 3], "NCHW"),
    (SuperBatchNorm2D, [4, 3, 3], "NHWC"),
    (SuperBatchNorm3D, [4, 2, 3, 3], "NCDHW"),
    (SuperSyncBatchNorm, [4, 3, 3], "NCHW"),
]
extents = st.one_of(
    st.integers(1, FULL),
    st.sampled_from([((1, 4),), ((0, 2), (3, 5)), ((1, 2), (3, 4), (5, 6))]),
)


def numbers(extent: Any) -> np.ndarray:
    return np.concatenate([np.arange(*part) for part in ranges_of(extent)])


def image(shape: list[int], channels: int, last: bool = False) -> paddle.Tensor:
    batch, *spatial = shape
    return paddle.randn([batch, *spatial, channels] if last else [batch, channels, *spatial]) + 2.0


def randomised(layer: nn.Layer) -> nn.Layer:
    for parameter in layer.parameters():
        parameter.set_value(paddle.rand(parameter.shape) + 0.5)
    return layer


def small_batch_norm(layer: nn.Layer, index: np.ndarray) -> nn.Layer:
    """A plain layer of these channels only."""
    plain = nn.BatchNorm2D if isinstance(layer, nn.SyncBatchNorm) else spec_of(layer).plain
    small = plain(len(index), data_format=layer._data_format, use_global_stats=layer._use_global_stats)
    for name in ("weight", "bias", "_mean", "_variance"):
        getattr(small, name).set_value(getattr(layer, name).numpy()[index])
    return small


@pytest.mark.filterwarnings(TRACKS)
@given(
    kind=st.sampled_from(BATCH_NORMS),
    extent=extents,
    training=st.booleans(),
    global_statistics=st.sampled_from([None, True, False]),
)
def test_batch_norm_at_a_width_and_its_running_statistics(
    kind: Any, extent: Any, training: bool, global_statistics: bool | None
) -> None:
    elastic, shape, layout = kind
    more = {} if elastic is SuperSyncBatchNorm else {"use_global_stats": global_statistics}
    layer = randomised(elastic(FULL, data_format=layout, **more))
    if not isinstance(extent, int):
        layer.activate({"out": extent})
    index = numbers(extent)
    small = small_batch_norm(layer, index)
    held = {name: getattr(layer, name) for name in ("_mean", "_variance")}
    before = {name: value.numpy() for name, value in held.items()}
    layer.training = small.training = training
    # Two forwards before the backward, as two sub-networks in one step.
    for _ in range(2):
        x, same = image(shape, len(index), layout[-1] == "C"), paddle.zeros([])
        x.stop_gradient = False
        same = x.detach()
        same.stop_gradient = False
        one, other = layer(x), small(same)
        assert difference(one, other) < CLOSE
        (one**3).sum().backward()
        (other**3).sum().backward()
        assert difference(x.grad, same.grad) < 1e-3
    others = np.setdiff1d(np.arange(FULL), index)
    for name, value in held.items():
        assert getattr(layer, name) is value
        assert value.stop_gradient
        assert np.allclose(value.numpy()[index], getattr(small, name).numpy(), atol=CLOSE)
        assert (value.numpy()[others] == before[name][others]).all()
    updates = training if layer._use_global_stats is None else not layer._use_global_stats
    assert (layer._mean.numpy()[index] != before["_mean"][index]).any() == updates
    for name in ("weight", "bias"):
        assert (getattr(layer, name).grad.numpy()[others] == 0).all()


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("extent", [6, 4, ((1, 3), (4, 5))])
@pytest.mark.parametrize(
    ("elastic", "shape"),
    [(SuperInstanceNorm1D, [2, 5]), (SuperInstanceNorm2D, [2, 4, 4]), (SuperInstanceNorm3D, [2, 3, 3, 3])],
)
def test_instance_norm_at_a_width(elastic: Any, shape: list[int], extent: Any, affine: bool) -> None:
    layer = randomised(elastic(FULL, **({} if affine else {"weight_attr": False, "bias_attr": False})))
    if not isinstance(extent, int):
        layer.activate({"out": extent})
    index = numbers(extent)
    small = spec_of(layer).plain(len(index), **({} if affine else {"weight_attr": False, "bias_attr": False}))
    if affine:
        small.scale.set_value(layer.scale.numpy()[index])
        small.bias.set_value(layer.bias.numpy()[index])
    x = image(shape, len(index))
    assert difference(layer(x), small(x)) < CLOSE


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("each", [1, 2, 3])
def test_group_norm_takes_the_leading_channels_of_each_group(each: int, layout: str) -> None:
    layer = randomised(SuperGroupNorm(2, FULL, data_format=layout))
    index = np.concatenate([np.arange(each), 3 + np.arange(each)])
    small = nn.GroupNorm(2, 2 * each, data_format=layout)
    small.weight.set_value(layer.weight.numpy()[index])
    small.bias.set_value(layer.bias.numpy()[index])
    x = image([2, 4, 4], 2 * each, layout == "NHWC")
    assert difference(layer(x), small(x)) < CLOSE


def test_group_norm_refuses_what_its_groups_do_not_divide() -> None:
    with pytest.raises(IllegalSubnetError, match=r"group_norm_.*: width 3 is not a multiple of its 2 groups"):
        SuperGroupNorm(2, FULL)(image([2, 4, 4], 3))


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize(("count", "width"), [(FULL, 4), (FULL, 1), (FULL, FULL), (1, 4)])
def test_prelu_has_a_slope_per_channel_or_one(count: int, width: int, layout: str) -> None:
    layer = randomised(SuperPReLU(count, data_format=layout))
    small = nn.PReLU(min(count, width), data_format=layout)
    small._weight.set_value(layer._weight.numpy()[:width])
    x = image([2, 3, 3], width, layout == "NHWC") - 2.0
    assert difference(layer(x), small(x)) == 0


def test_layer_norm_over_several_dimensions_stays_full() -> None:
    layer, x = SuperLayerNorm([3, 4]), paddle.randn([2, 3, 4])
    layer.activate(layer.max_sizes)
    assert difference(layer(x), nn.LayerNorm([3, 4])(x)) == 0
    with pytest.raises(ValueError, match="normalized_shape"):
        layer(paddle.randn([2, 3, 2]))


@pytest.mark.parametrize(
    ("make", "sizes"),
    [
        (lambda: nn.BatchNorm2D(FULL), {"out": 4}),
        (lambda: nn.BatchNorm2D(FULL, weight_attr=False, bias_attr=False), {"out": ((1, 3), (4, 6))}),
        (lambda: nn.InstanceNorm2D(FULL), {"out": 4}),
        (lambda: nn.GroupNorm(2, FULL), {"out": ((0, 2), (3, 5))}),
        (lambda: nn.PReLU(FULL), {"out": 4}),
        (lambda: nn.PReLU(1), {"out": 4}),
    ],
)
def test_a_cut_layer_computes_what_the_elastic_one_computes_and_can_be_put_back(make: Any, sizes: Any) -> None:
    plain, elastic = randomised(make()), make()
    elastic.set_state_dict(plain.state_dict())
    parameters, keys, state = list(plain.parameters()), list(elastic.state_dict()), dict(vars(plain))
    swap_class(elastic)
    elastic.activate(sizes)
    plain.eval()
    elastic.eval()
    undo = cut_plain(plain, sizes)
    x = image([2, 4, 4], length(sizes["out"])) - 2.0
    assert difference(plain(x), elastic(x)) < CLOSE
    assert [p.stop_gradient for p in plain.parameters()] == [p.stop_gradient for p in parameters]
    undo()
    plain.train()
    assert vars(plain) == state
    assert all(now is old for now, old in zip(plain.parameters(), parameters, strict=True))
    swap_back(elastic)
    assert type(elastic) is type(plain)
    assert list(elastic.state_dict()) == keys


def test_a_synchronised_norm_runs_paddles_own_forward_on_its_part(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def forward(self: nn.SyncBatchNorm, x: paddle.Tensor) -> paddle.Tensor:
        seen.append([tensor.shape for tensor in (self.weight, self.bias, self._mean, self._variance)])
        return nn.functional.batch_norm(x, self._mean, self._variance, self.weight, self.bias, self.training)

    monkeypatch.setattr(nn.SyncBatchNorm, "forward", forward)
    monkeypatch.setattr(paddle.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(paddle.device, "get_device", lambda: "gpu:0")
    x = image([4, 3, 3], 4)
    for extent in (((0, 4),), ((0, 2), (3, 5))):
        layer, alone = SuperSyncBatchNorm(FULL), SuperBatchNorm2D(FULL)
        held = list(layer.parameters())
        layer.activate({"out": extent})
        alone.activate({"out": extent})
        assert difference(layer(x), alone(x)) < CLOSE
        assert seen.pop() == [[4]] * 4
        assert all(now is old for now, old in zip(layer.parameters(), held, strict=True))
        assert difference(layer._mean, alone._mean) == 0
        assert difference(layer._variance, alone._variance) == 0


class Chain(nn.Layer):
    """A convolution, a norm and a linear layer whose widths follow one another."""

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.conv = SuperConv2D(3, FULL, 5, padding=2)
        self.depthwise = SuperConv2D(FULL, FULL, 3, groups=FULL, padding=1)
        self.norm = SuperBatchNorm2D(FULL)
        self.group_norm = SuperGroupNorm(2, FULL)
        self.prelu = SuperPReLU(FULL)
        self.head = SuperLinear(FULL, FULL)
        self.width, self.kernel = width, kernel

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        x = self.conv(x, kernel_size=self.kernel, channel=self.width)
        x = self.prelu(self.group_norm(self.norm(self.depthwise(x))))
        return self.head(x.mean([2, 3]), channel=self.width)


@pytest.mark.parametrize(("width", "kernel"), [(FULL, 5), (4, 3), (2, 4)])
def test_a_static_program_trains_and_computes_as_the_dynamic_model(width: int, kernel: int) -> None:
    model, twin = Chain(width, kernel), Chain(width, kernel)
    twin.set_state_dict(model.state_dict())
    static = paddle.jit.to_static(twin, full_graph=True)
    x = paddle.randn([2, 3, 7, 7])
    for _ in range(2):
        one, other = model(x), static(x)
        assert difference(one, other) < CLOSE
        one.square().sum().backward()
        other.square().sum().backward()
    for (name, own), its in zip(model.named_parameters(), twin.parameters(), strict=True):
        assert difference(own, its) < CLOSE, name
        if not own.stop_gradient:
            assert difference(own.grad, its.grad) < 1e-4, name
    model.eval()
    static.eval()
    assert difference(model(x), static(x)) < CLOSE


def program_of(layer: nn.Layer, shape: list[int]) -> tuple[list[str], set[str]]:
    """The operators of a layer's static program, and those that read a parameter."""
    spec = [paddle.static.InputSpec(shape)]
    traced = paddle.jit.to_static(layer, input_spec=spec, full_graph=True)
    operators = [op for op in traced.forward.concrete_program.main_program.global_block().ops]
    readers = {
        op.name()
        for op in operators
        for operand in op.operands_source()
        if operand.get_defining_op() is not None and operand.get_defining_op().name() == "builtin.parameter"
    }
    return [op.name() for op in operators], readers


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: nn.Conv1D(4, 6, 3, padding=1), [2, 4, 5]),
        (lambda: nn.Conv2D(4, 6, 3, padding=1), [2, 4, 5, 5]),
        (lambda: nn.Conv2D(4, 4, 3, groups=4), [2, 4, 5, 5]),
        (lambda: nn.Conv2D(4, 6, 3, groups=2, padding=1, padding_mode="reflect"), [2, 4, 5, 5]),
        (lambda: nn.Conv2D(4, 6, 3, padding="SAME", data_format="NHWC"), [2, 5, 5, 4]),
        (lambda: nn.Conv3D(4, 6, (1, 3, 3)), [2, 4, 5, 5, 5]),
        (lambda: nn.Conv1DTranspose(4, 6, 3), [2, 4, 5]),
        (lambda: nn.Conv2DTranspose(4, 6, 3, stride=2, output_padding=1), [2, 4, 5, 5]),
        (lambda: nn.Conv2DTranspose(4, 6, 3, groups=2), [2, 4, 5, 5]),
        (lambda: nn.Conv3DTranspose(4, 6, 3), [2, 4, 5, 5, 5]),
        (lambda: nn.BatchNorm1D(4), [2, 4, 5]),
        (lambda: nn.BatchNorm2D(4), [2, 4, 5, 5]),
        (lambda: nn.BatchNorm3D(4), [2, 4, 5, 5, 5]),
        (lambda: nn.InstanceNorm2D(4), [2, 4, 5, 5]),
        (lambda: nn.GroupNorm(2, 4), [2, 4, 5, 5]),
        (lambda: nn.LayerNorm(4), [2, 5, 4]),
        (lambda: nn.PReLU(4), [2, 4, 5, 5]),
        (lambda: nn.PReLU(1), [2, 4, 5, 5]),
        (lambda: nn.Linear(4, 6), [2, 4]),
    ],
)
def test_at_full_size_the_program_is_that_of_the_plain_layer(make: Any, shape: list[int]) -> None:
    for activate in (False, True):
        plain, elastic = make(), make()
        swap_class(elastic)
        if activate:
            elastic.activate(elastic.max_sizes)
        plain.eval()
        elastic.eval()
        assert program_of(elastic, shape) == program_of(plain, shape)


def test_running_statistics_are_not_written_in_a_program_for_inference() -> None:
    layer = SuperBatchNorm2D(FULL)
    layer.eval()
    operators, _ = program_of(layer, [2, 4, 3, 3])
    assert "pd_op.batch_norm_" in operators
    assert not {"pd_op.assign_out_", "pd_op.scatter"} & set(operators)


@pytest.mark.filterwarnings(TRACKS)
@pytest.mark.parametrize("frozen", [0, 1])
@pytest.mark.parametrize(
    "kind", [SuperBatchNorm2D, SuperSyncBatchNorm, SuperInstanceNorm2D, SuperGroupNorm, SuperLayerNorm]
)
def test_a_part_of_a_norm_trains_while_its_scale_or_its_bias_is_frozen(kind: Any, frozen: int) -> None:
    norm = kind(2, FULL) if kind is SuperGroupNorm else kind(FULL)
    scale, bias = norm.parameters()[:2]
    (scale, bias)[frozen].stop_gradient = True
    shape = [2, 5, 4] if kind is SuperLayerNorm else [2, 4, 3, 5]
    given = paddle.randn(shape)
    given.stop_gradient = False
    ((norm(given) + 1) ** 2).sum().backward()  # of the slices themselves Paddle fails, or ends the process
    assert ((scale.grad is None), (bias.grad is None)) == ((True, False) if frozen == 0 else (False, True))
    trained = bias if frozen == 0 else scale
    assert (trained.grad.numpy() != 0).sum() == 4
