"""Elastic convolutions against small plain layers that got copied weights."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import paddle
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from paddle import nn

from models import difference
from ofa_slim.errors import ConvertError, IllegalSubnetError
from ofa_slim.supernet import (
    Block,
    SuperConv1D,
    SuperConv1DTranspose,
    SuperConv2D,
    SuperConv2DTranspose,
    SuperConv3D,
    SuperConv3DTranspose,
    SuperDepthwiseConv2D,
    SuperDepthwiseConv2DTranspose,
    SuperGroupConv2D,
    SuperGroupConv2DTranspose,
    SuperLinear,
    SuperSeparableConv2D,
)
from ofa_slim.supernet.layers import elastic_kernels, fixed_kernel_reason, swap_back, swap_class
from ofa_slim.supernet.spec import cut_plain, leading_of_each, length, ranges_of, spec_of

CLOSE = 1e-5
CONVS = [SuperConv1D, SuperConv2D, SuperConv3D]
TRANSPOSED = [SuperConv1DTranspose, SuperConv2DTranspose, SuperConv3DTranspose]
NAMES = {1: "NLC", 2: "NHWC", 3: "NDHWC"}


def sides_of(layer: nn.Layer) -> int:
    return layer.weight.ndim - 2


def image(layer: nn.Layer, channels: int, size: int = 6, last: bool = False) -> paddle.Tensor:
    spatial = [size] * sides_of(layer)
    return paddle.randn([2, *spatial, channels] if last else [2, channels, *spatial])


def rows(count: int, full: int, groups: int) -> np.ndarray:
    """The leading `count` of each of `groups` groups of `full` entries."""
    return np.concatenate([group * full + np.arange(count) for group in range(groups)])


def with_random_bias(layer: nn.Layer) -> nn.Layer:
    layer.bias.set_value(paddle.randn(layer.bias.shape))
    return layer


@given(
    elastic=st.sampled_from(CONVS),
    groups=st.integers(1, 3),
    full=st.tuples(st.integers(2, 3), st.integers(1, 3)),
    last=st.booleans(),
    data=st.data(),
)
def test_convolution_at_a_width_is_the_leading_slice_of_each_group(
    elastic: Any, groups: int, full: tuple[int, int], last: bool, data: st.DataObject
) -> None:
    inputs, outputs = (data.draw(st.integers(1, size)) for size in full)
    more = {"groups": groups, "padding": 1, "stride": 2}
    layer = elastic(full[0] * groups, full[1] * groups, 3, **more)
    if last:
        layer = elastic(full[0] * groups, full[1] * groups, 3, data_format=NAMES[sides_of(layer)], **more)
    with_random_bias(layer)
    small = spec_of(layer).plain(inputs * groups, outputs * groups, 3, data_format=layer._data_format, **more)
    taken = rows(outputs, full[1], groups)
    small.weight.set_value(layer.weight.numpy()[taken, :inputs])
    small.bias.set_value(layer.bias.numpy()[taken])
    x = image(layer, inputs * groups, last=last)
    # What is asked for beyond a multiple of the groups is rounded down.
    asked = min(outputs * groups + data.draw(st.integers(0, groups - 1)), full[1] * groups)
    assert difference(layer(x, channel=asked), small(x)) < CLOSE


@given(
    elastic=st.sampled_from(TRANSPOSED),
    groups=st.integers(1, 3),
    full=st.tuples(st.integers(2, 3), st.integers(1, 3)),
    data=st.data(),
)
def test_transposed_convolution_at_a_width_is_the_leading_slice_of_each_group(
    elastic: Any, groups: int, full: tuple[int, int], data: st.DataObject
) -> None:
    inputs, outputs = (data.draw(st.integers(1, size)) for size in full)
    more = {"groups": groups, "padding": 1, "stride": 2, "output_padding": 1}
    layer = with_random_bias(elastic(full[0] * groups, full[1] * groups, 3, **more))
    small = spec_of(layer).plain(inputs * groups, outputs * groups, 3, **more)
    small.weight.set_value(layer.weight.numpy()[rows(inputs, full[0], groups), :outputs])
    small.bias.set_value(layer.bias.numpy()[rows(outputs, full[1], groups)])
    x = image(layer, inputs * groups)
    assert difference(layer(x, channel=outputs * groups), small(x)) < CLOSE


@pytest.mark.parametrize("width", [1, 2, 4])
@pytest.mark.parametrize("multiplier", [1, 3])
@pytest.mark.parametrize("elastic", [SuperConv1D, SuperDepthwiseConv2D, SuperConv3D])
def test_depthwise_convolution_follows_its_input(elastic: Any, multiplier: int, width: int) -> None:
    layer = with_random_bias(elastic(4, 4 * multiplier, 3, padding=1, groups=4))
    small = spec_of(layer).plain(width, width * multiplier, 3, padding=1, groups=width)
    small.weight.set_value(layer.weight.numpy()[: width * multiplier])
    small.bias.set_value(layer.bias.numpy()[: width * multiplier])
    x = image(layer, width)
    assert difference(layer(x), small(x)) < CLOSE
    assert difference(layer(x, channel=1), small(x)) < CLOSE


@pytest.mark.parametrize("width", [1, 2, 4])
@pytest.mark.parametrize("multiplier", [1, 3])
@pytest.mark.parametrize("elastic", [SuperConv1DTranspose, SuperDepthwiseConv2DTranspose, SuperConv3DTranspose])
def test_transposed_depthwise_convolution_follows_its_input(elastic: Any, multiplier: int, width: int) -> None:
    layer = with_random_bias(elastic(4, 4 * multiplier, 3, groups=4))
    small = spec_of(layer).plain(width, width * multiplier, 3, groups=width)
    small.weight.set_value(layer.weight.numpy()[:width])
    small.bias.set_value(layer.bias.numpy()[: width * multiplier])
    x = image(layer, width)
    assert difference(layer(x), small(x)) < CLOSE


@pytest.mark.parametrize(("groups", "multiplier"), [(1, 1), (2, 1), (4, 2)])
def test_active_channels_need_not_be_the_leading_ones(groups: int, multiplier: int) -> None:
    layer = with_random_bias(SuperConv2D(4, 4 * multiplier, 3, groups=groups))
    depthwise = groups == 4
    taken = ((multiplier, 2 * multiplier), (3 * multiplier, 4 * multiplier))
    index = np.concatenate([np.arange(*part) for part in taken])
    layer.activate({"out": taken})
    kept = 2 if depthwise else groups
    small = nn.Conv2D(2 if depthwise else 4, len(index), 3, groups=kept)
    small.weight.set_value(layer.weight.numpy()[index])
    small.bias.set_value(layer.bias.numpy()[index])
    x = image(layer, 2 if depthwise else 4)
    assert difference(layer(x), small(x)) < CLOSE


def cropped_by_zeros(layer: nn.Layer, size: int) -> nn.Layer:
    """The layer at full size, its weight zero outside the centre."""
    full = layer.weight.shape[-1]
    start = (full - size) // 2
    mask = np.zeros([full] * sides_of(layer), "float32")
    mask[tuple([slice(start, start + size)] * sides_of(layer))] = 1
    twin = type(layer)(
        layer._in_channels,
        layer._out_channels,
        full,
        stride=layer._stride,
        padding=layer._padding,
        dilation=layer._dilation,
        groups=layer._groups,
        **({} if layer._padding_mode == "zeros" else {"padding_mode": layer._padding_mode}),
    )
    twin.weight.set_value(layer.weight.numpy() * mask)
    twin.bias.set_value(layer.bias)
    return twin


@given(
    elastic=st.sampled_from(CONVS + TRANSPOSED),
    full=st.integers(2, 7),
    stride=st.integers(1, 3),
    dilation=st.integers(1, 2),
    extra=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    pairs=st.booleans(),
    data=st.data(),
)
def test_a_smaller_kernel_is_the_centre_and_the_spatial_size_stays(
    elastic: Any, full: int, stride: int, dilation: int, extra: tuple[int, int], pairs: bool, data: st.DataObject
) -> None:
    size = data.draw(st.integers(1, full))
    before = (full - size) // 2
    needed = (before * dilation, (full - size - before) * dilation)
    sides = CONVS.index(elastic) + 1 if elastic in CONVS else TRANSPOSED.index(elastic) + 1
    padding = [need + more for need, more in zip(needed, extra, strict=True)] * sides
    if pairs:
        padding = [
            [0, 0],
            [0, 0],
            *([before, after] for before, after in zip(padding[::2], padding[1::2], strict=True)),
        ]
    layer = with_random_bias(elastic(2, 2, full, padding=padding, stride=stride, dilation=dilation))
    assume(elastic in TRANSPOSED or 6 + sum(needed) + sum(extra) > (full - 1) * dilation)
    x = image(layer, 2)
    assume(min(cropped_by_zeros(layer, size)(x).shape) > 0)
    assert difference(layer(x, kernel_size=size), cropped_by_zeros(layer, size)(x)) < CLOSE
    assert size in elastic_kernels(layer, (size, full))
    plain = elastic(2, 2, full, padding=padding, stride=stride, dilation=dilation)
    swap_back(plain)
    plain.set_state_dict(layer.state_dict())
    cut_plain(plain, {"kernel": ((before, before + size),)})
    assert difference(layer(x, kernel_size=size), plain(x)) == 0


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
@pytest.mark.parametrize(("full", "size"), [(5, 3), (4, 3), (5, 2)])
@pytest.mark.parametrize("elastic", CONVS)
def test_other_padding_than_zeros_follows_the_kernel(elastic: Any, full: int, size: int, mode: str) -> None:
    # Another step per dimension, so that each dimension has another padding.
    dilation = [1, 2, 1][: CONVS.index(elastic) + 1]
    layer = with_random_bias(elastic(2, 2, full, padding=5, padding_mode=mode, dilation=dilation))
    x = image(layer, 2)
    assert difference(layer(x, kernel_size=size), cropped_by_zeros(layer, size)(x)) < CLOSE
    expected = layer(x, kernel_size=size)
    swap_back(layer)
    cut_plain(layer, {"kernel": (((full - size) // 2, (full - size) // 2 + size),)})
    assert difference(layer(x), expected) == 0


@given(
    elastic=st.sampled_from([SuperConv1D, SuperConv2D, SuperConv2DTranspose]),
    stride=st.integers(1, 3),
    spatial=st.integers(5, 9),
)
def test_same_padding_needs_no_help(elastic: Any, stride: int, spatial: int) -> None:
    layer = elastic(2, 2, 5, stride=stride, padding="SAME")
    x = image(layer, 2, spatial)
    choices = elastic_kernels(layer, range(1, 6))
    assert choices == tuple(range(stride if elastic is SuperConv2DTranspose else 1, 6))
    assert {tuple(layer(x, kernel_size=size).shape) for size in choices} == {tuple(layer(x).shape)}


@pytest.mark.parametrize(
    ("conv", "choices", "expected", "reason"),
    [
        (nn.Conv2D(2, 2, 7, padding=3), (3, 5, 7), (3, 5, 7), None),
        (nn.Conv2D(2, 2, 7, padding=1), (3, 5, 7), (5, 7), None),
        (nn.Conv2D(2, 2, 5, padding=2, dilation=2), (3, 5), (3, 5), None),
        (nn.Conv2D(2, 2, 5, padding=1, dilation=2), (3, 5), (5,), "its padding 1 is too small"),
        (nn.Conv2D(2, 2, 5), (3, 5), (5,), "its padding 0 is too small for a kernel smaller than 5"),
        (nn.Conv2D(2, 2, 5, padding="VALID"), (3, 5), (5,), "'VALID' is too small"),
        (nn.Conv2D(2, 2, 7, padding=3), (3, 5), (), "size 7 is not between 2 and 5"),
        (nn.Conv2D(2, 2, 1), (1, 3), (), "size 1 is not between 2 and 3"),
        (nn.Conv2D(2, 2, 3, padding=1), (3, 5), (3,), "no choice is below its kernel size 3"),
        (nn.Conv2D(2, 2, (3, 5), padding=2), (3, 5), (), "its kernel 3 x 5 is not square"),
        (nn.Conv2D(2, 2, 4, padding=[0, 1, 0, 1]), (2, 3, 4), (3, 4), None),
        (nn.Conv2DTranspose(2, 2, 4, padding=1, stride=2), (2, 3, 4), (2, 3, 4), None),
        (nn.Conv1D(2, 2, 5, padding=[2]), (3, 5), (3, 5), None),
    ],
)
def test_which_kernels_a_convolution_can_have(
    conv: nn.Layer, choices: tuple[int, ...], expected: tuple[int, ...], reason: str | None
) -> None:
    assert elastic_kernels(conv, choices) == expected
    found = fixed_kernel_reason(conv, choices)
    assert found is None if reason is None else reason in found


def cut_cases() -> list[Any]:
    """A plain layer, sizes to cut it to, and the channels that then come in."""
    return [
        (lambda: nn.Conv2D(4, 6, 3, padding=1), {"in": 3, "out": 2}, 3),
        (lambda: nn.Conv2D(4, 6, 3, padding=1, bias_attr=False), {"in": 3}, 3),
        (lambda: nn.Conv2D(4, 6, 5, padding=2), {"in": ((1, 3),), "out": 4, "kernel": ((1, 4),)}, 2),
        (lambda: nn.Conv2D(4, 6, 4, padding=2), {"kernel": 3}, 4),
        (lambda: nn.Conv2D(4, 6, (3, 5), padding=2), {"in": 2, "out": 3}, 2),
        (lambda: nn.Conv2D(4, 4, 3, groups=4), {"out": ((1, 3),)}, 2),
        (lambda: nn.Conv2D(4, 8, 3, groups=4), {"out": 2}, 1),
        (lambda: nn.Conv2D(4, 8, 3, groups=2), {"in": 1, "out": leading_of_each(3, 4, 2)}, 2),
        (lambda: nn.Conv1D(4, 8, 3, groups=2, padding=1), {"in": 1, "out": ((0, 1), (4, 5)), "kernel": ((1, 2),)}, 2),
        (lambda: nn.Conv3D(4, 6, 3, padding=1), {"in": 3, "out": 2, "kernel": 2}, 3),
        (lambda: nn.Conv2DTranspose(4, 6, 3, padding=1), {"in": 3, "out": 2, "kernel": 2}, 3),
        (lambda: nn.Conv2DTranspose(4, 6, (3, 5)), {"in": 3, "out": 2}, 3),
        (lambda: nn.Conv2DTranspose(4, 4, 3, groups=4), {"in": ((1, 3),), "out": ((1, 3),)}, 2),
        (
            lambda: nn.Conv2DTranspose(4, 8, 4, groups=2, padding=1, stride=2),
            {"in": ((0, 1), (2, 3)), "group_out": 3, "out": ((0, 3), (4, 7)), "kernel": ((1, 3),)},
            2,
        ),
        (lambda: nn.Conv1DTranspose(4, 6, 3, padding=1), {"in": 3, "out": 2, "kernel": 2}, 3),
        (lambda: nn.Conv3DTranspose(4, 6, 3, padding=1), {"in": 3, "out": 2, "kernel": 2}, 3),
    ]


@pytest.mark.parametrize(("make", "sizes", "channels"), cut_cases())
def test_a_cut_layer_computes_what_the_elastic_one_computes_and_can_be_put_back(
    make: Any, sizes: Any, channels: int
) -> None:
    plain = make()
    whole = image(plain, plain._in_channels)
    before, state = plain(whole), dict(vars(plain))
    parameters = list(plain.parameters())
    elastic = make()
    elastic.set_state_dict(plain.state_dict())
    swap_class(elastic)
    elastic.activate(sizes)
    undo = cut_plain(plain, sizes)
    x = image(plain, channels)
    assert difference(plain(x), elastic(x)) < CLOSE
    fresh = type(plain)(
        plain._in_channels,
        plain._out_channels,
        plain._kernel_size,
        stride=plain._stride,
        padding=plain._padding,
        groups=plain._groups,
        bias_attr=None if plain.bias is not None else False,
    )
    for attribute in ("_op_type", "_updated_padding", "_padding_algorithm"):
        assert getattr(plain, attribute, None) == getattr(fresh, attribute, None), attribute
    fresh.set_state_dict(plain.state_dict())
    assert difference(plain(x), fresh(x)) == 0
    assert spec_of(plain).full_sizes(plain) == {
        **spec_of(elastic).full_sizes(elastic),
        **{role: length(extent) for role, extent in sizes.items()},
    }
    undo()
    assert all(now is old for now, old in zip(plain.parameters(), parameters, strict=True))
    assert vars(plain) == state
    assert difference(plain(whole), before) == 0


@pytest.mark.parametrize(("make", "sizes", "channels"), cut_cases())
def test_swapping_keeps_parameters_and_gradients_outside_the_active_part_are_zero(
    make: Any, sizes: Any, channels: int
) -> None:
    layer = make()
    parameters, keys, plain = list(layer.parameters()), list(layer.state_dict()), type(layer)
    swap_class(layer)
    layer.activate(sizes)
    assert list(layer.state_dict()) == keys
    layer(image(layer, channels)).square().sum().backward()
    for name, parameter in layer.named_parameters():
        inside = np.zeros(parameter.shape, bool)
        roles = spec_of(layer).roles(layer, name)
        extents = [sizes.get(role, full) for role, full in zip(roles, parameter.shape, strict=True)]
        inside[np.ix_(*(np.concatenate([np.arange(*part) for part in ranges_of(each)]) for each in extents))] = True
        grad = parameter.grad.numpy()
        assert (grad[~inside] == 0).all()
        assert (grad[inside] != 0).any()
    swap_back(layer)
    assert type(layer) is plain
    assert all(now is old for now, old in zip(layer.parameters(), parameters, strict=True))


@pytest.mark.parametrize(
    ("layer", "sizes", "call", "error"),
    [
        (SuperConv2D(4, 6, 3), {}, (4, {"channel": 7}), "output width 7 is not between 1 and 6"),
        (SuperConv2D(4, 6, 3), {}, (5, {}), "conv2d_.*: 5 input channels; at most 4"),
        (SuperConv2D(4, 6, 3, groups=2), {}, (3, {}), "input width 3 is not a multiple of its 2 groups"),
        (SuperConv2D(4, 6, 3, groups=2), {"out": 3}, (4, {}), "output width 3 is not a multiple of its 2 groups"),
        (SuperConv2D(4, 6, 3, padding=1), {}, (4, {"kernel_size": 5}), "kernel size 5 is not between 1 and 3"),
        (SuperConv2D(4, 6, 3, padding=1), {}, (4, {"kernel_size": 1.5}), "kernel size 1.5 is not between"),
        (SuperConv2D(4, 6, (3, 5)), {}, (4, {"kernel_size": 3}), r"kernel \[3, 5\] is not square"),
        (SuperConv2D(4, 6, 5, padding=1), {}, (4, {"kernel_size": 1}), "kernel size 1 .* padding 1 is too small"),
        (SuperConv2D(4, 6, 5, padding=1), {"kernel": ((2, 3),)}, (4, {}), "kernel size 1 .* padding 1 is too small"),
        (SuperGroupConv2DTranspose(4, 6, 3, groups=2), {}, (3, {}), "input width 3 is not a multiple"),
    ],
)
def test_sizes_that_a_convolution_cannot_have_are_refused(layer: Any, sizes: Any, call: Any, error: str) -> None:
    layer.activate(sizes)
    channels, asked = call
    with pytest.raises(IllegalSubnetError, match=error):
        layer(image(layer, channels), **asked)


@pytest.mark.parametrize("sizes", [(3, 5, 7), (5, 3, 4), (2, 6)])
@pytest.mark.parametrize("elastic", [SuperConv1D, SuperConv2D, SuperConv2DTranspose])
def test_kernel_transformations_begin_as_the_centre_and_learn(elastic: Any, sizes: tuple[int, ...]) -> None:
    full = max(sizes)
    layer = elastic(2, 3, full, {"kernel_size": sizes}, transform_kernel=True, padding=full // 2)
    centred = elastic(2, 3, full, padding=full // 2)
    centred.weight.set_value(layer.weight)
    x = image(layer, 2, 8)
    for size in sizes:
        layer.clear_gradients()
        output = layer(x, kernel_size=size)
        assert difference(output, centred(x, kernel_size=size)) < CLOSE
        output.square().sum().backward()
        chain = sorted({step for step in sizes if step >= size}, reverse=True)
        used = {f"transform_{a}_to_{b}" for a, b in pairwise(chain)}
        for name, parameter in layer.named_parameters():
            if name.startswith("transform"):
                assert (parameter.grad is not None and bool((parameter.grad != 0).any())) == (name in used), name


def test_kernel_transformations_are_applied_one_after_the_other() -> None:
    layer = SuperConv2D(2, 3, 7, {"kernel_size": (3, 5, 7)}, transform_kernel=True, padding=3)
    first, second = paddle.randn([25, 25]), paddle.randn([9, 9])
    layer.transform_7_to_5.set_value(first)
    layer.transform_5_to_3.set_value(second)
    five = (layer.weight[:2, :1, 1:6, 1:6].reshape([2, 25]) @ first).reshape([2, 1, 5, 5])
    three = (five[:, :, 1:4, 1:4].reshape([2, 9]) @ second).reshape([2, 1, 3, 3])
    sizes = {"out": 2, "in": 1}
    assert difference(layer.part("weight", {**sizes, "kernel": ((1, 6),)}), five) < CLOSE
    assert difference(layer.part("weight", {**sizes, "kernel": ((2, 5),)}), three) < CLOSE
    small = nn.Conv2D(1, 2, 3, padding=1)
    small.weight.set_value(three)
    small.bias.set_value(layer.bias[:2])
    x = image(layer, 1)
    assert difference(layer(x, kernel_size=3, channel=2), small(x)) < 1e-4


def test_kernel_transformations_belong_to_the_elastic_layer_only() -> None:
    layer = nn.Conv2D(2, 2, 5, padding=2)
    keys = list(layer.state_dict())
    swap_class(layer)
    layer.add_transforms((3, 5))
    assert set(layer.state_dict()) - set(keys) == {"transform_5_to_3"}
    with pytest.raises(IllegalSubnetError, match=r"kernel size 4 is not one of \(5, 3\)"):
        layer(image(layer, 2), kernel_size=4)
    swap_back(layer)
    assert list(layer.state_dict()) == keys
    assert layer(image(layer, 2)).shape == [2, 2, 6, 6]


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: SuperConv2D(2, 2, 3).add_transforms((3, 5)), r"\(5, 3\) are not between 1 and 3"),
        (lambda: SuperConv2D(2, 2, (3, 5)).add_transforms((3,)), "is not square"),
        (lambda: SuperConv2D(2, 2, (3, 5), {"kernel_size": (3,)}), r"SuperConv2D: kernel \(3, 5\) is not square"),
        (
            lambda: SuperConv2D(2, 2, 5, {"kernel_size": (3,)}),
            "size 3 is not possible for a kernel of 5 with pad",
        ),
        (lambda: SuperConv2D(2, 2, 3, {"kerne_size": (3,)}), "key 'kerne_size', .*; did you mean 'kernel_size'"),
        (lambda: SuperConv2D(2, 2, 3, {"kernel_size": 3}), "has 3 for 'kernel_size', which is not a list of choices"),
        (
            lambda: SuperConv2D(2, 2, 3, {"channel": (1, 1.5)}),
            "has 1.5 for 'channel', which is not a whole number",
        ),
        (
            lambda: SuperConv2D(2, 2, 3, {"channel": (1, 2), "expand_ratio": (0.5, 1.0)}),
            "candidate_config cannot have both expand_ratio and channel",
        ),
        (
            lambda: SuperLinear(2, 2, {"kernel_size": (3,)}),
            "key 'kernel_size', which is not one of expand_ratio, channel",
        ),
        (lambda: SuperDepthwiseConv2D(4, 4, 3, groups=2), "SuperDepthwiseConv2D: 2 groups, but 4 input channels"),
    ],
)
def test_layers_that_cannot_be_made_say_why(make: Any, error: str) -> None:
    with pytest.raises(ConvertError, match=error):
        make()


def test_the_published_names_are_rows_of_the_same_table() -> None:
    for layer in (SuperGroupConv2D(4, 4, 3, groups=2), SuperDepthwiseConv2D(4, 4, 3)):
        assert spec_of(layer) is spec_of(nn.Conv2D(1, 1, 1))
        swap_back(layer)
        assert type(layer) is nn.Conv2D
    assert SuperDepthwiseConv2DTranspose(4, 4, 3)._groups == 4


def test_a_transposed_convolution_takes_the_size_of_its_output_first() -> None:
    layer = SuperConv2DTranspose(2, 2, 3, stride=2, padding=1)
    x = image(layer, 2)
    assert layer(x, [12, 12]).shape == [2, 2, 12, 12]
    assert layer(x, output_size=12, kernel_size=2).shape == [2, 2, 12, 12]


@given(full=st.tuples(st.integers(1, 4), st.integers(1, 5)), scale=st.integers(1, 2), data=st.data())
def test_separable_convolution_follows_its_input_and_cuts_its_output(
    full: tuple[int, int], scale: int, data: st.DataObject
) -> None:
    norm = data.draw(st.sampled_from([None, nn.InstanceNorm2D, nn.BatchNorm2D]))
    inputs, outputs = (data.draw(st.integers(1, size)) for size in full)
    layer = SuperSeparableConv2D(*full, 3, {"channel": (1, full[1])}, padding=1, norm_layer=norm, scale_factor=scale)
    layer.eval()
    assert layer.depthwise.bias is None
    assert layer.candidate_config == {"channel": (1, full[1])}
    x = paddle.randn([2, inputs, 5, 5])
    between = nn.functional.conv2d(x, layer.depthwise.weight[: inputs * scale], padding=1, groups=inputs)
    if norm is not None:
        small = norm(inputs * scale)
        small.eval()
        between = small(between)
    expected = nn.functional.conv2d(
        between, layer.pointwise.weight[:outputs, : inputs * scale], layer.pointwise.bias[:outputs]
    )
    assert difference(layer(x, channel=outputs), expected) < CLOSE
    assert layer(x).shape == [2, full[1], 5, 5]


def test_a_block_forwards_to_its_layer() -> None:
    layer = SuperConv2D(2, 4, 3, {"channel": (2, 4)})
    block = Block(layer, key="stem")
    x = image(layer, 2)
    assert difference(block(x, channel=2), layer(x, channel=2)) == 0
    assert (block.key, block.fixed, block.candidate_config) == ("stem", False, {"channel": (2, 4)})
    assert Block(layer, fixed=True).candidate_config == {}
    assert Block(nn.ReLU()).candidate_config == {}
    assert list(block.state_dict()) == ["fn.weight", "fn.bias"]
