"""Elastic layers without parameters of their own: attention (heads), layer stacks (depth)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, cast

import paddle
from paddle import nn

from ofa_slim.supernet.layers.elastic import AttributeSized, ElasticLayer
from ofa_slim.supernet.layers.left_out import bias_only
from ofa_slim.supernet.spec import LayerSpec, Sizes, length, register


def kept_layers(depth: int, full: int) -> tuple[int, ...]:
    """Which of `full` layers a stack of `depth` layers keeps: evenly spread, always with the last one.

    Source: Hou et al. 2020, DynaBERT, arXiv:2004.04037, section 2.1.
    """
    return tuple((i + 1) * full // depth - 1 for i in range(depth))


class SuperMultiHeadAttention(AttributeSized, nn.MultiHeadAttention):
    """`paddle.nn.MultiHeadAttention` with an elastic number of heads; its forward is Paddle's own.

    Without heads the bias of its output projection remains.
    """

    def forward(self, query: paddle.Tensor, *others: Any, **named: Any) -> Any:
        """Attends with the active heads.

        Args:
            query: float ``[batch, places, channels]``.
            others: further arguments of the Paddle layer.
            named: the same.

        Returns: as the Paddle layer; without heads the output, and with `need_weights` None for the scores.
        """
        if self.num_heads:
            return super().forward(query, *others, **named)
        projection = cast(ElasticLayer, self.out_proj)
        found = bias_only(query, cast(paddle.Tensor, projection.active_part("bias")))
        return (found, None) if self.need_weights else found


class SuperTransformerEncoder(AttributeSized, nn.TransformerEncoder):
    """`paddle.nn.TransformerEncoder` whose layer count follows its elastic stack of layers."""


class SuperTransformerDecoder(AttributeSized, nn.TransformerDecoder):
    """`paddle.nn.TransformerDecoder` whose layer count follows its elastic stack of layers."""


class SuperLayerList(ElasticLayer, nn.LayerList):
    """`paddle.nn.LayerList` that iterates over, counts and indexes only the layers of its active depth.

    Parameters, names and `state_dict` stay those of the whole list.
    """

    def _active(self) -> list[nn.Layer]:
        layers = list(super().__iter__())
        depth = length(self.active_sizes.get("depth", len(layers)))
        return layers if depth == len(layers) else [layers[i] for i in kept_layers(depth, len(layers))]

    def __iter__(self) -> Iterator[nn.Layer]:
        """Iterates over the active layers."""
        return iter(self._active())

    def __len__(self) -> int:
        """The active depth."""
        return len(self._active())

    def __getitem__(self, idx: int | slice) -> nn.Layer | nn.LayerList:
        """The active layer at a position, or a plain list of several."""
        found = self._active()[idx]
        return nn.LayerList(found) if isinstance(found, list) else found


def _shorten(stack: nn.Layer, sizes: Sizes) -> Callable[[], None]:
    if not isinstance(stack, nn.LayerList):
        raise TypeError(f"{type(stack).__name__} is not a list of layers")
    layers = list(stack)
    kept = [layers[i] for i in kept_layers(length(sizes.get("depth", len(layers))), len(layers))]

    def replace_by(new: list[nn.Layer]) -> None:
        while len(stack):
            del stack[len(stack) - 1]
        stack.extend(new)

    replace_by(kept)
    return lambda: replace_by(layers)


register(
    LayerSpec(
        nn.MultiHeadAttention,
        SuperMultiHeadAttention,
        sizes={"heads": "num_heads"},
        qk_projections=("q_proj", "k_proj"),
    )
)
register(LayerSpec(nn.TransformerEncoder, SuperTransformerEncoder, sizes={"depth": "num_layers"}))
register(LayerSpec(nn.TransformerDecoder, SuperTransformerDecoder, sizes={"depth": "num_layers"}))
register(LayerSpec(nn.LayerList, SuperLayerList, measure=lambda stack: {"depth": len(stack)}, cut=_shorten))
