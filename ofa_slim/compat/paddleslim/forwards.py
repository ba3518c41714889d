"""``[mask, head_mask]`` in place of a mask, for Paddle's transformer encoder, its layers and its attention.

The forwards of the three classes are wrapped: a call without such a list goes through to the forward that was there.
A head's mask scales what the head hands to the output projection, which is the same as scaling its attention
weights; so Paddle's own attention runs, with its scale, dropout and caches.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import paddle
from paddle import nn

from ofa_slim.errors import ConfigError

Forward = Callable[..., Any]


class Pair(list[Any]):
    """``[mask, head_mask]`` with the dtype of the input, so that Paddle's layers do not cast it but hand it on."""

    dtype: Any


def accept_head_masks() -> None:
    """Wraps the forwards of Paddle's classes that are not wrapped yet."""
    for layer_class, wrap in _WRAPPERS.items():
        current = layer_class.forward
        if current not in _ORIGINALS:
            _set(layer_class, "forward", _wrapped(wrap, current))


def take_back() -> None:
    """Puts the forwards back that were there, wherever in Paddle's classes the wrapped ones were kept since."""
    for layer_class in _WRAPPERS:
        for name, value in list(vars(layer_class).items()):
            if inspect.isfunction(value) and value in _ORIGINALS:
                _set(layer_class, name, _ORIGINALS[value])


# Every wrapped forward that was made, with what it wraps.
_ORIGINALS: dict[Forward, Forward] = {}


@functools.cache
def _wrapped(wrap: Callable[[Forward], Forward], original: Forward) -> Forward:
    forward = wrap(original)
    # Not functools.wraps: paddle.jit translates the source that __wrapped__ leads to.
    forward.__name__, forward.__qualname__, forward.__doc__ = "forward", original.__qualname__, original.__doc__
    forward.__signature__ = inspect.signature(original)  # type: ignore[attr-defined]  # callers ask it for arguments
    _ORIGINALS[forward] = original
    return forward


def _set(layer_class: type[nn.Layer], name: str, value: Forward) -> None:
    setattr(layer_class, name, value)


def _encoder(original: Forward) -> Forward:
    def forward(
        self: nn.TransformerEncoder, src: paddle.Tensor, src_mask: Any = None, *args: Any, **kwargs: Any
    ) -> Any:
        if isinstance(src_mask, (list, tuple)):
            return masked(self, src, src_mask, *args, **kwargs)
        return original(self, src, src_mask, *args, **kwargs)

    @paddle.jit.not_to_static  # its translation knows no such lists
    def masked(self: nn.TransformerEncoder, src: paddle.Tensor, masks: Any, *args: Any, **kwargs: Any) -> Any:
        mask, head_mask = _split(masks)
        if head_mask is None and all(map(_runs_paddles_forward, self.layers)):
            return original(self, src, mask, *args, **kwargs)
        asked = [*filter(None, args), *(name for name, value in kwargs.items() if value)]
        if asked:
            raise ConfigError(f"[mask, head_mask] cannot go together with {asked[0]!r}: the encoder returns one tensor")
        layers = list(self.layers)
        for layer, layer_mask in zip(layers, _per_layer(head_mask, len(layers)), strict=True):
            src = layer(src, src_mask=[mask, layer_mask])
        return src if self.norm is None else self.norm(src)

    return forward


def _layer(original: Forward) -> Forward:
    def forward(
        self: nn.TransformerEncoderLayer, src: paddle.Tensor, src_mask: Any = None, *args: Any, **kwargs: Any
    ) -> Any:
        if isinstance(src_mask, (list, tuple)):
            return masked(self, src, src_mask, *args, **kwargs)
        return original(self, src, src_mask, *args, **kwargs)

    @paddle.jit.not_to_static
    def masked(self: nn.TransformerEncoderLayer, src: paddle.Tensor, masks: Any, *args: Any, **kwargs: Any) -> Any:
        pair = Pair(_split(masks))
        pair.dtype = src.dtype
        return original(self, src, pair, *args, **kwargs)

    return forward


def _attention(original: Forward) -> Forward:
    def forward(
        self: nn.MultiHeadAttention,
        query: paddle.Tensor,
        key: Any = None,
        value: Any = None,
        attn_mask: Any = None,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        if isinstance(attn_mask, (list, tuple)):
            return masked(self, query, key, value, attn_mask, *args, **kwargs)
        return original(self, query, key, value, attn_mask, *args, **kwargs)

    @paddle.jit.not_to_static
    def masked(
        self: nn.MultiHeadAttention,
        query: paddle.Tensor,
        key: Any,
        value: Any,
        masks: Any,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        mask, head_mask = _split(masks)
        if head_mask is None:
            return original(self, query, key, value, mask, *args, **kwargs)
        factors = _factors(head_mask, self.num_heads)
        hook = self.out_proj.register_forward_pre_hook(_scaling(factors))
        try:
            outputs = original(self, query, key, value, mask, *args, **kwargs)
        finally:
            hook.remove()
        if not self.need_weights:
            return outputs
        return (outputs[0], outputs[1] * factors, *outputs[2:])

    return forward


_WRAPPERS: dict[type[nn.Layer], Callable[[Forward], Forward]] = {
    nn.TransformerEncoder: _encoder,
    nn.TransformerEncoderLayer: _layer,
    nn.MultiHeadAttention: _attention,
}


def _split(masks: Sequence[Any]) -> tuple[Any, Any]:
    if len(masks) != 2:
        raise ConfigError(
            f"an attention mask that is a list has to be [mask, head_mask]; this one has {len(masks)} items"
        )
    return masks[0], masks[1]


def _runs_paddles_forward(layer: nn.Layer) -> bool:
    return "forward" not in vars(layer) and type(layer).forward is nn.TransformerEncoderLayer.forward


def _per_layer(head_mask: paddle.Tensor | None, layers: int) -> list[Any]:
    """The mask of each layer's heads, ``[1, heads, 1, 1]``."""
    if head_mask is None:
        return [None] * layers
    if head_mask.ndim == 1:
        return [head_mask.reshape([1, -1, 1, 1])] * layers
    if head_mask.shape[0] != layers:
        raise ConfigError(f"head_mask of shape {list(head_mask.shape)} is not for {layers} layers, its first dimension")
    return [head_mask[i].reshape([1, -1, 1, 1]) if head_mask.ndim == 2 else head_mask[i] for i in range(layers)]


def _factors(head_mask: paddle.Tensor, heads: int) -> paddle.Tensor:
    """The factor of each head that runs, ``[1 or batch, heads, 1, 1]``."""
    if head_mask.ndim == 1:
        head_mask = head_mask.reshape([1, -1, 1, 1])
    if head_mask.ndim != 4 or list(head_mask.shape[2:]) != [1, 1] or head_mask.shape[1] < heads:
        raise ConfigError(
            f"head_mask of shape {list(head_mask.shape)} is neither [heads] nor [batch, heads, 1, 1] for {heads} heads"
        )
    # A sub-network keeps the leading heads.
    return head_mask[:, :heads]


def _scaling(factors: paddle.Tensor) -> Callable[[nn.Layer, Any], Any]:
    by_position = factors.transpose([0, 2, 1, 3])

    def hook(layer: nn.Layer, inputs: Any) -> Any:
        heads = inputs[0].reshape([0, 0, factors.shape[1], -1])
        return ((heads * by_position.astype(heads.dtype)).reshape(inputs[0].shape), *inputs[1:])

    return hook
