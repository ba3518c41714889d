"""What remains of an attention or a feed-forward part that is left out: the bias of its output matrix."""

from __future__ import annotations

from typing import Any, cast

import paddle
from paddle import nn

from ofa_slim.supernet.layers.elastic import ElasticLayer
from ofa_slim.supernet.spec import LayerSpec, register


def bias_only(input: paddle.Tensor, bias: paddle.Tensor) -> paddle.Tensor:
    """A bias at every place of an input.

    Args:
        input: float ``[..., channels]``, of which only the places count.
        bias: float ``[out]``.

    Returns: float ``[..., out]``, of the type of the input.
    """
    return paddle.zeros_like(input[..., :1]) + bias.astype(input.dtype)


class BiasOnly(nn.Layer):
    """What an exported model has in place of a sub-layer that is left out.

    Args:
        bias: float ``[out]``, a parameter, which it keeps.
    """

    need_weights = False  # models with attention scores among their outputs set it

    def __init__(self, bias: paddle.Tensor) -> None:
        super().__init__()
        self.bias = bias

    def forward(self, input: paddle.Tensor, *others: Any, **named: Any) -> Any:
        """The bias at every place.

        Args:
            input: float ``[..., channels]``.
            others: what else an attention is called with; it does not matter.
            named: the same.

        Returns: float ``[..., out]``; with `need_weights` also None for the attention scores. In a program ``[out]``:
            what it is added to has the places, and nothing is left to compute; a dropout then drops a channel at
            all places alike.
        """
        found = bias_only(input, self.active_bias) if paddle.in_dynamic_mode() else self.active_bias
        return (found, None) if self.need_weights else found

    @property
    def active_bias(self) -> paddle.Tensor:
        """The part of the bias that takes part."""
        return self.bias


class SuperBiasOnly(ElasticLayer, BiasOnly):
    """`BiasOnly` of a model that is made a supernet again."""

    @property
    def active_bias(self) -> paddle.Tensor:
        """The part of the bias that takes part."""
        return cast(paddle.Tensor, self.active_part("bias"))


class FirstChannel(nn.Layer):
    """What an exported model has in place of the layer before an output matrix that is left out."""

    def forward(self, input: paddle.Tensor) -> paddle.Tensor:
        """The first channel of the input, float ``[..., 1]``, for its places; in a program the input."""
        return input[..., :1] if paddle.in_dynamic_mode() else input


register(LayerSpec(BiasOnly, SuperBiasOnly, params={"bias": ("out",)}, width="out"))
