"""Each elastic layer against a small plain layer that got copied weights."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from hypothesis import given
from hypothesis import strategies as st
from paddle import nn

from models import difference
from ofa_slim.errors import IllegalSubnetError
from ofa_slim.supernet import SuperEmbedding, SuperLayerNorm, SuperLinear
from ofa_slim.supernet.layers import SuperLayerList, swap_back, swap_class
from ofa_slim.supernet.layers.affine import whole_backward
from ofa_slim.supernet.spec import cut_plain, spec_of

CLOSE = 1e-6


@given(full=st.tuples(st.integers(1, 9), st.integers(1, 9)), bias=st.booleans(), data=st.data())
def test_linear_at_a_width_is_the_leading_slice(full: tuple[int, int], bias: bool, data: st.DataObject) -> None:
    layer = SuperLinear(*full, bias_attr=None if bias else False)
    width_in, width_out = (data.draw(st.integers(1, size)) for size in full)
    small = nn.Linear(width_in, width_out, bias_attr=None if bias else False)
    small.weight.set_value(layer.weight[:width_in, :width_out])
    if bias:
        layer.bias.set_value(paddle.randn([full[1]]))
        small.bias.set_value(layer.bias[:width_out])
    x = paddle.randn([3, width_in])
    assert difference(layer(x, channel=width_out), small(x)) < CLOSE
    assert layer(x).shape == [3, full[1]]


def test_a_share_is_rounded_down_and_a_channel_goes_before_it() -> None:
    layer = SuperLinear(4, 10)
    x = paddle.randn([1, 4])
    assert layer(x, expand_ratio=0.19).shape == [1, 1]
    assert layer(x, expand_ratio=0.5).shape == [1, 5]
    assert layer(x, expand_ratio=0.5, channel=3).shape == [1, 3]


@pytest.mark.parametrize("asked", [{"channel": 11}, {"channel": 0}, {"expand_ratio": 1.2}])
def test_a_width_that_the_layer_does_not_have_is_refused(asked: dict[str, float]) -> None:
    with pytest.raises(IllegalSubnetError, match="is not between 1 and 10"):
        SuperLinear(4, 10)(paddle.randn([1, 4]), **asked)


@pytest.mark.parametrize("width", [1, 3, 8])
def test_embedding_at_a_width_is_the_leading_channels(width: int) -> None:
    layer = SuperEmbedding(5, 8, padding_idx=0)
    ids = paddle.to_tensor([[0, 1, 4]])
    out = layer(ids, channel=width)
    expected = layer.weight.numpy()[:, :width][[[0, 1, 4]]]
    assert np.array_equal(out.numpy(), expected)
    # Also where the model picks from it: Paddle 3.1 and 3.2 pick wrongly from a view.
    last_first = paddle.to_tensor([2, 0])
    assert np.array_equal(out[:, last_first].numpy(), expected[:, [2, 0]])
    (out * 2).sum().backward()
    assert int((layer.weight.grad != 0).sum()) == 2 * width


@pytest.mark.parametrize("width", [1, 3, 8])
@pytest.mark.parametrize("affine", [True, False])
def test_layer_norm_follows_the_width_of_its_input(width: int, affine: bool) -> None:
    layer = SuperLayerNorm(8, weight_attr=None if affine else False, bias_attr=None if affine else False)
    small = nn.LayerNorm(width)
    if affine:
        layer.weight.set_value(paddle.randn([8]))
        layer.bias.set_value(paddle.randn([8]))
        small.weight.set_value(layer.weight[:width])
        small.bias.set_value(layer.bias[:width])
    x = paddle.randn([2, 3, width])
    assert difference(layer(x), small(x)) < CLOSE


def test_a_stack_iterates_counts_and_indexes_its_active_layers() -> None:
    layers = [nn.Linear(2, 2) for _ in range(6)]
    stack = nn.LayerList(layers)
    keys = list(stack.state_dict())
    swap_class(stack)
    stack.activate({"depth": 3})
    assert isinstance(stack, SuperLayerList)
    assert list(stack) == [layers[1], layers[3], layers[5]]
    assert len(stack) == 3
    assert stack[0] is layers[1]
    assert list(stack[1:]) == [layers[3], layers[5]]
    assert list(stack.state_dict()) == keys
    assert len(list(stack.parameters())) == 12
    swap_back(stack)
    assert type(stack) is nn.LayerList
    assert list(stack) == layers


@pytest.mark.parametrize(
    ("layer", "sizes", "shapes"),
    [
        (lambda: nn.Linear(4, 6), {"in": 3, "out": 2}, [[3, 2], [2]]),
        (lambda: nn.Linear(4, 6, bias_attr=False), {"in": 3}, [[3, 6]]),
        (lambda: nn.Embedding(5, 4), {"out": 3}, [[5, 3]]),
        (lambda: nn.LayerNorm(4), {"out": 3}, [[3], [3]]),
    ],
)
def test_cutting_a_plain_layer_can_be_taken_back(layer, sizes, shapes) -> None:  # type: ignore[no-untyped-def]
    plain = layer()
    full = spec_of(plain).full_sizes(plain)
    before = list(plain.parameters())
    values = [parameter.numpy() for parameter in before]
    before[0].optimize_attr["learning_rate"] = 0.5
    undo = cut_plain(plain, sizes)
    assert [list(parameter.shape) for parameter in plain.parameters()] == shapes
    assert spec_of(plain).full_sizes(plain) == {**full, **sizes}
    for parameter, value in zip(plain.parameters(), values, strict=True):
        assert not parameter.stop_gradient
        assert (parameter.numpy() == value[tuple(slice(0, size) for size in parameter.shape)]).all()
    assert next(iter(plain.parameters())).optimize_attr["learning_rate"] == 0.5
    undo()
    assert all(now is old for now, old in zip(plain.parameters(), before, strict=True))
    assert spec_of(plain).full_sizes(plain) == full


def test_a_subclass_with_a_forward_of_its_own_has_no_row() -> None:
    class Mine(nn.Linear):
        pass

    assert spec_of(Mine(2, 2)) is None
    with pytest.raises(TypeError, match="Mine has no row"):
        swap_class(Mine(2, 2))


@pytest.mark.parametrize("shape", [[5], [3, 5], [2, 3, 5], [2, 2, 3, 5]])
@pytest.mark.parametrize("frozen", ["", "input", "bias"])
def test_a_linear_layer_has_the_gradients_of_paddles(shape: list[int], frozen: str) -> None:
    plain, elastic = nn.Linear(5, 4), SuperLinear(5, 4)
    elastic.set_state_dict(plain.state_dict())
    given = paddle.randn(shape)
    inputs = [given.clone().detach() for _ in range(2)]
    outputs = []
    with whole_backward():
        for layer, tensor in zip((plain, elastic), inputs, strict=True):
            tensor.stop_gradient = frozen == "input"
            layer.bias.stop_gradient = frozen == "bias"
            outputs.append(layer(tensor))
            (outputs[-1] ** 2).sum().backward()
    assert outputs[0].shape == outputs[1].shape
    assert float((outputs[0] - outputs[1]).abs().max()) < 1e-5
    for name in ("weight", "bias"):
        one, other = getattr(plain, name).grad, getattr(elastic, name).grad
        assert (one is None) == (other is None) == (frozen == "bias" and name == "bias")
        assert one is None or paddle.allclose(one, other, atol=1e-5)
    assert frozen == "input" or paddle.allclose(inputs[0].grad, inputs[1].grad, atol=1e-5)


def test_a_linear_layer_gives_the_gradient_of_some_of_its_weights() -> None:
    layer = SuperLinear(5, 4)
    (found,) = paddle.grad(layer(paddle.ones([2, 5])).sum(), [layer.weight])
    assert (found == 2).all()
