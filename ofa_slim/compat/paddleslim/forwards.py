"""``[mask, head_mask]`` in place of a mask, for Paddle's transformer encoder, its layers and its attention.

The forwards of the three classes are wrapped; a call without such a list goes to the original forward. A head mask
scales what each head passes to the output projection. That is the same as scaling its attention weights, so Paddle's
own attention runs, with its scale, dropout and caches.
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
    """``[mask, head_mask]`` with the dtype of the input, so that Paddle's layers pass it on without a cast."""

    dtype: Any


def accept_head_masks() -> None:
    """Wraps the forwards of Paddle's classes that are not wrapped yet."""
    for layer_class, masked in _MASKED.items():
        current = layer_class.forward
        if current not in _ORIGINALS:
            setattr(layer_class, "forward", _wrapped(masked, current))  # noqa: B010  # mypy refuses a plain assignment


def take_back() -> None:
    """Restores the original forwards, also under other names that Paddle's classes keep the wrapped ones by."""
    for layer_class in _MASKED:
        for name, value in list(vars(layer_class).items()):
            if inspect.isfunction(value) and value in _ORIGINALS:
                setattr(layer_class, name, _ORIGINALS[value])


_ORIGINALS: dict[Forward, Forward] = {}  # by wrapped forward


@functools.cache
def _wrapped(masked: Forward, original: Forward) -> Forward:
    """A forward that calls ``masked(original, ...)`` where its mask is a list, and else `original`."""

    @paddle.jit.not_to_static  # its translation does not know such lists
    def with_list(*args: Any, **kwargs: Any) -> Any:
        return masked(original, *args, **kwargs)

    wrap = _attention_forward if masked is _masked_attention else _stack_forward
    forward: Any = wrap(original, with_list)
    # Not functools.wraps: paddle.jit translates the source that __wrapped__ leads to.
    forward.__qualname__, forward.__doc__ = original.__qualname__, original.__doc__
    forward.__signature__ = inspect.signature(original)  # callers look for arguments in it
    _ORIGINALS[forward] = original
    return forward


# paddle.jit finds the source of a function by its name, so both are called forward.
def _stack_forward(original: Forward, with_list: Forward) -> Forward:
    def forward(self: nn.Layer, src: paddle.Tensor, src_mask: Any = None, *args: Any, **kwargs: Any) -> Any:
        if isinstance(src_mask, (list, tuple)):
            return with_list(self, src, src_mask, *args, **kwargs)
        return original(self, src, src_mask, *args, **kwargs)

    return forward


def _attention_forward(original: Forward, with_list: Forward) -> Forward:
    def forward(
        self: nn.Layer,
        query: paddle.Tensor,
        key: Any = None,
        value: Any = None,
        attn_mask: Any = None,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        if isinstance(attn_mask, (list, tuple)):
            return with_list(self, query, key, value, attn_mask, *args, **kwargs)
        return original(self, query, key, value, attn_mask, *args, **kwargs)

    return forward


def _masked_encoder(
    original: Forward, encoder: nn.TransformerEncoder, src: paddle.Tensor, masks: Any, *args: Any, **kwargs: Any
) -> Any:
    mask, head_mask = _split(masks)
    if head_mask is None and all(map(_runs_paddles_forward, encoder.layers)):
        return original(encoder, src, mask, *args, **kwargs)
    options = [*filter(None, args), *(name for name, value in kwargs.items() if value)]
    if options:
        raise ConfigError(f"[mask, head_mask] cannot go together with {options[0]!r}: the encoder returns one tensor")
    layers = list(encoder.layers)
    for layer, layer_mask in zip(layers, _per_layer(head_mask, len(layers)), strict=True):
        src = layer(src, src_mask=[mask, layer_mask])
    return src if encoder.norm is None else encoder.norm(src)


def _masked_layer(
    original: Forward, layer: nn.TransformerEncoderLayer, src: paddle.Tensor, masks: Any, *args: Any, **kwargs: Any
) -> Any:
    pair = Pair(_split(masks))
    pair.dtype = src.dtype
    return original(layer, src, pair, *args, **kwargs)


def _masked_attention(
    original: Forward,
    attention: nn.MultiHeadAttention,
    query: paddle.Tensor,
    key: Any,
    value: Any,
    masks: Any,
    *args: Any,
    **kwargs: Any,
) -> Any:
    mask, head_mask = _split(masks)
    if head_mask is None:
        return original(attention, query, key, value, mask, *args, **kwargs)
    factors = _factors(head_mask, attention.num_heads)
    hook = attention.out_proj.register_forward_pre_hook(_scaling(factors))
    try:
        outputs = original(attention, query, key, value, mask, *args, **kwargs)
    finally:
        hook.remove()
    return (outputs[0], outputs[1] * factors, *outputs[2:]) if attention.need_weights else outputs


_MASKED: dict[type[nn.Layer], Forward] = {
    nn.TransformerEncoder: _masked_encoder,
    nn.TransformerEncoderLayer: _masked_layer,
    nn.MultiHeadAttention: _masked_attention,
}


def _split(masks: Sequence[Any]) -> tuple[Any, Any]:
    if len(masks) != 2:
        raise ConfigError(
            f"an attention mask that is a list must be [mask, head_mask]; this one has {len(masks)} items"
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
    """The factor of each active head, ``[1 or batch, heads, 1, 1]``; a sub-network keeps the first heads."""
    if head_mask.ndim == 1:
        head_mask = head_mask.reshape([1, -1, 1, 1])
    if head_mask.ndim != 4 or list(head_mask.shape[2:]) != [1, 1] or head_mask.shape[1] < heads:
        raise ConfigError(
            f"head_mask of shape {list(head_mask.shape)} is neither [heads] nor [batch, heads, 1, 1] for {heads} heads"
        )
    return head_mask[:, :heads]


def _scaling(factors: paddle.Tensor) -> Callable[[nn.Layer, Any], Any]:
    by_position = factors.transpose([0, 2, 1, 3])

    def hook(layer: nn.Layer, inputs: Any) -> Any:
        heads = inputs[0].reshape([0, 0, factors.shape[1], -1])
        return ((heads * by_position.astype(heads.dtype)).reshape(inputs[0].shape), *inputs[1:])

    return hook
