"""The wrapper by which a supernet that is written by hand names its elastic layers."""

from __future__ import annotations

from typing import Any

from paddle import nn

from ofa_slim.supernet.layers.separable import SuperSeparableConv2D


class Block(nn.Layer):
    """A layer of a supernet that is written by hand.

    Args:
        fn: the layer, mostly an elastic one; its keys begin with ``fn.``, as in the published API. In configs it
            goes by the path and the full name of the block, too.
        fixed: whether its own width and kernel always stay in full; its input may still be narrower.
        key: a further name of it in configs.
    """

    def __init__(self, fn: nn.Layer, fixed: bool = False, key: str | None = None) -> None:
        super().__init__()
        self.fn = fn
        self.fixed = fixed
        self.key = key

    @property
    def candidate_config(self) -> dict[str, tuple[float, ...]]:
        """The choices of the layer; none where it has none or is fixed."""
        return {} if self.fixed else getattr(self.fn, "candidate_config", {})

    def forward(self, *inputs: Any, **kwargs: Any) -> Any:
        """What the layer returns for these arguments."""
        return self.fn(*inputs, **kwargs)


def inner_layer(layer: nn.Layer) -> nn.Layer:
    """The layer that has the width of a block or of a separable convolution; any other layer itself."""
    while isinstance(layer, (Block, SuperSeparableConv2D)):
        layer = layer.fn if isinstance(layer, Block) else layer.pointwise
    return layer
