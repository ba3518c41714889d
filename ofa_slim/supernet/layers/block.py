"""The wrapper that names an elastic layer of a hand-written supernet."""

from __future__ import annotations

from typing import Any

from paddle import nn

from ofa_slim.supernet.layers.separable import SuperSeparableConv2D


class Block(nn.Layer):
    """A layer of a hand-written supernet.

    Args:
        fn: the layer, usually an elastic one; its keys begin with ``fn.``, as in the published API. Configs may also
            name it by the path or the full name of the block.
        fixed: whether its own width and kernel always stay full; its input may still be narrower.
        key: another name for it in configs.
    """

    def __init__(self, fn: nn.Layer, fixed: bool = False, key: str | None = None) -> None:
        super().__init__()
        self.fn = fn
        self.fixed = fixed
        self.key = key

    @property
    def candidate_config(self) -> dict[str, tuple[float, ...]]:
        """The choices of the layer; empty if it is fixed."""
        return {} if self.fixed else getattr(self.fn, "candidate_config", {})

    def forward(self, *inputs: Any, **kwargs: Any) -> Any:
        """Calls the layer."""
        return self.fn(*inputs, **kwargs)


def inner_layer(layer: nn.Layer) -> nn.Layer:
    """The layer inside a block or a separable convolution that has its width; any other layer itself."""
    while isinstance(layer, (Block, SuperSeparableConv2D)):
        layer = layer.fn if isinstance(layer, Block) else layer.pointwise
    return layer
