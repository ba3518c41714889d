"""Widths follow what a model does in train mode as well as what it does in eval mode."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
import pytest
from paddle import nn

from ofa_slim import OFA, Convert, supernet
from ofa_slim.base.examples import compare
from ofa_slim.errors import ExportError


class DeepSupervision(nn.Layer):
    """In train mode alone, a projection of the hidden features is added to those of another branch."""

    def __init__(self, written: bool = False) -> None:
        super().__init__()
        self.one, self.norm, self.two = nn.Conv2D(2, 8, 3, padding=1), nn.BatchNorm2D(8), nn.Conv2D(2, 8, 1)
        self.drop, self.head, self.side = nn.Dropout(0.5), nn.Linear(8, 3), nn.Linear(8, 3)
        self.extra = nn.Linear(8, 2)
        self.written = written

    def forward(self, x: paddle.Tensor) -> Any:
        one, two = self.drop(self.norm(self.one(x))).mean([2, 3]), self.two(x).mean([2, 3])
        out = self.head(one) + self.side(two)
        if not self.training:
            return out
        both = one + two
        return out, self.extra(both.reshape([-1, 8]) if self.written else both)


def converted(model: nn.Layer) -> OFA:
    return OFA(
        Convert(supernet(expand_ratio=[0.25, 0.5, 1.0])).convert(model), example_inputs=paddle.randn([4, 2, 6, 6])
    )


def test_widths_that_agree_in_train_mode_alone_share_an_axis() -> None:
    ofa = converted(DeepSupervision())
    axis = ofa.search_space["one"]
    assert {slot.layer for slot in axis.slots} == {"one", "norm", "two", "head", "side", "extra"}
    ofa.train()
    for _ in range(4):
        out, extra = ofa(paddle.randn([4, 2, 6, 6]))
        (out.mean() + extra.mean()).backward()
    small = ofa.export(config=ofa.search_space.smallest(), input_shapes=[4, 2, 6, 6])
    small.train()
    assert [list(part.shape) for part in small(paddle.randn([4, 2, 6, 6]))] == [[4, 3], [4, 2]]


def test_a_forward_that_fails_at_smaller_widths_in_train_mode_alone_keeps_them_whole() -> None:
    model = DeepSupervision(written=True)
    model.norm._mean.set_value(paddle.arange(8).astype("float32"))
    paddle.seed(3)
    expected = paddle.rand([3]).numpy()
    paddle.seed(3)
    ofa = converted(model)
    with paddle.no_grad():
        assert not any(axis.elastic for axis in ofa.search_space.axes)
    assert "the forward fails" in {row.layer: row.reason for row in ofa.search_space.fixed}["one"]
    np.testing.assert_array_equal(model.norm._mean.numpy(), np.arange(8))
    paddle.seed(3)
    np.testing.assert_array_equal(paddle.rand([3]).numpy(), expected)


def test_outputs_that_are_not_numbers_are_named_as_such() -> None:
    nan, zeros = paddle.full([2, 2], float("nan")), paddle.zeros([2, 2])
    with pytest.raises(ExportError, match=r"output 1 is NaN in 4 of 4 entries expected.*the model itself gives NaN"):
        compare([zeros, nan], [zeros, nan], "export")
    with pytest.raises(ExportError, match="the compared one alone gives NaN"):
        compare([zeros], [nan], "export")
