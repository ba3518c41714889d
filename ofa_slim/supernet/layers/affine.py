"""The product and sum of a fully connected layer, with a faster backward pass on CPUs where that is safe.

Paddle 3.3.1 cannot compute the gradient of only some inputs of a PyLayer (`paddle.grad` of some weights). So it is
used only inside `whole_backward`, by which the caller says that the backward pass reaches everything.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import paddle
from paddle.autograd import PyLayer
from paddle.nn import functional as F

_WHOLE: ContextVar[bool] = ContextVar("whole_backward", default=False)


@contextmanager
def whole_backward() -> Iterator[None]:
    """Declares that each backward pass inside the block is `Tensor.backward`, from a loss to all that trains."""
    token = _WHOLE.set(True)
    try:
        yield
    finally:
        _WHOLE.reset(token)


def affine(
    input: paddle.Tensor, weight: paddle.Tensor, bias: paddle.Tensor | None, name: str | None = None
) -> paddle.Tensor:
    """``input @ weight + bias``, as `paddle.nn.functional.linear` computes it.

    Args:
        input: float ``[..., in]``.
        weight: float ``[in, out]``.
        bias: float ``[out]``, or None.
        name: of the operation in a static graph.

    Returns: float ``[..., out]``.
    """
    if bias is not None and _trains_on_cpu(input, weight, bias):
        return _Affine.apply(input, weight, bias)
    return F.linear(input, weight, bias, name)


def _trains_on_cpu(input: paddle.Tensor, weight: paddle.Tensor, bias: paddle.Tensor) -> bool:
    return (
        _WHOLE.get()
        and paddle.in_dynamic_mode()
        and paddle.is_grad_enabled()
        and not (weight.stop_gradient or bias.stop_gradient)
        and input.place.is_cpu_place()
        and input.dtype == weight.dtype  # on CPUs Paddle's autocast does nothing
    )


class _Affine(PyLayer):
    """Adds the bias within the matrix product, and sums its gradient by a matrix product.

    384 to 1536 channels at batch 32 x length 64 took 12.8 ms instead of 18.0, and the gradients 42 instead of 62:
    Paddle's own reduction takes half as long as the layer's matrix products (3.3.1, two CPU cores).
    """

    @staticmethod
    def forward(ctx: Any, input: paddle.Tensor, weight: paddle.Tensor, bias: paddle.Tensor) -> paddle.Tensor:
        ctx.save_for_backward(input, weight)
        ctx.wants_input = not input.stop_gradient
        rows = input.reshape([-1, input.shape[-1]])
        return paddle.addmm(bias.reshape([1, -1]), rows, weight).reshape([*input.shape[:-1], weight.shape[-1]])

    @staticmethod
    def backward(ctx: Any, *grads: paddle.Tensor) -> Any:
        (grad,) = grads
        input, weight = ctx.saved_tensor()
        rows = grad.reshape([-1, grad.shape[-1]])
        of_weight = paddle.matmul(input.reshape([-1, input.shape[-1]]), rows, transpose_x=True)
        of_bias = paddle.matmul(paddle.ones([1, rows.shape[0]], rows.dtype), rows).reshape([-1])
        of_input = None
        if ctx.wants_input:
            of_input = paddle.matmul(rows, weight, transpose_y=True).reshape(input.shape)
        return of_input, of_weight, of_bias
