"""Elastic layers that answer to the published names: `fn`, `key`, `fixed` and `cur_config`.

The published library wrapped each elastic layer in a block, with the layer itself as `fn`. Here the layer is both, so
no parameter's name changes.
"""

from __future__ import annotations

import functools
import inspect
import itertools
from dataclasses import replace
from typing import Any

import paddle
from paddle import nn

from ofa_slim.supernet import Block as PlainBlock
from ofa_slim.supernet import layers as elastic_layers
from ofa_slim.supernet.layers import ElasticLayer
from ofa_slim.supernet.layers.conv_base import is_depthwise
from ofa_slim.supernet.layers.stack import SuperMultiHeadAttention
from ofa_slim.supernet.spec import Sizes, length, register, spec_of

_NUMBERS = itertools.count(1)


def counter() -> int:
    """A number that this function has not returned before."""
    return next(_NUMBERS)


class BaseBlock(nn.Layer):
    """The base class of all published blocks.

    Args:
        key: its name in configs; generated if None.
    """

    def __init__(self, key: str | None = None) -> None:
        super().__init__()
        self._key = f"{type(self).__name__}{counter()}" if key is None else str(key)

    def set_supernet(self, owner: nn.Layer) -> None:
        """Sets the block's `supernet`, without making that a sub-layer of the block."""
        vars(self)["supernet"] = owner

    @property
    def key(self) -> str:
        """Its name in configs."""
        return self._key


class Block(PlainBlock, BaseBlock):  # type: ignore[misc]  # here every block has a key
    """`ofa_slim.supernet.Block` as an instance of `BaseBlock`, which published scripts look for."""

    def __init__(self, fn: nn.Layer, fixed: bool = False, key: str | None = None) -> None:
        BaseBlock.__init__(self, key)
        self.fn = fn
        self.fixed = fixed


class Published:
    """Mixin that goes before an elastic layer in the bases of its published form."""

    @property
    def fn(self) -> Any:
        """The elastic layer: the layer itself."""
        return self._own("fn", self)

    @property
    def key(self) -> Any:
        """Paddle's full name of the layer."""
        return self._own("key", self.full_name())  # type: ignore[attr-defined]

    @property
    def fixed(self) -> Any:
        """Whether the layer always runs in full. False; only a `Block` around it can fix it."""
        return self._own("fixed", False)

    def _own(self, name: str, published: Any) -> Any:
        """The published value, or the layer's own sub-layer of that name (an attention's `key`)."""
        return dict(self.named_children()).get(name, published)  # type: ignore[attr-defined]

    @property
    def cur_config(self) -> dict[str, Any]:
        """The active sizes: ``expand_ratio``, ``kernel_size`` and so on, where the layer has them, and ``prune_dim``.

        ``prune_dim`` is the shape of the active part of the weight, or the number of active channels of a norm.
        """
        layer: Any = self
        spec = spec_of(layer)
        sizes = {**layer.max_sizes, **{role: length(extent) for role, extent in layer.active_sizes.items()}}
        found: dict[str, Any] = {}
        if spec is None or not spec.params:
            return found
        if spec.follows:
            return {"prune_dim": sizes["out"]}
        if "kernel" in sizes:
            found.update(kernel_size=sizes["kernel"], prune_group=layer._groups)
        if spec.width is not None:
            found.update(expand_ratio=_whole(sizes["out"] / layer.share_width), channel=None)
        found["prune_dim"] = [sizes.get(role, size) for role, size in zip(*_weight(layer), strict=True)]
        if "kernel" in sizes and is_depthwise(layer):
            found["prune_group"] = sizes["out"]
        return found


def _whole(ratio: float) -> float:
    return int(ratio) if ratio > 1 and ratio == int(ratio) else ratio


def _weight(layer: nn.Layer) -> tuple[Any, Any]:
    """The roles of a layer's weight and its shape."""
    spec: Any = spec_of(layer)
    return spec.roles(layer, "weight"), layer.weight.shape


class PublishedAttention(Published, SuperMultiHeadAttention):
    """Elastic attention whose number of heads is that of the sub-network, whatever a script sets it to.

    The published attention did not know how many of its heads ran, so scripts set the number themselves.
    """

    def activate(self, sizes: Sizes) -> None:
        """Runs with ``sizes["heads"]`` heads from now on."""
        super().activate(sizes)
        vars(self)["num_heads"] = length(self.active_sizes["heads"])

    @property
    def num_heads(self) -> int:
        """The number of active heads."""
        return vars(self)["num_heads"]

    @num_heads.setter
    def num_heads(self, value: int) -> None:
        if "num_heads" not in vars(self):
            vars(self)["num_heads"] = value


class ExportedAttention(nn.MultiHeadAttention):
    """Plain attention whose number of heads follows from its weights, whatever a script sets it to."""

    @property
    def num_heads(self) -> int:
        """The number of heads that the projections have."""
        return self.q_proj.weight.shape[1] // self.head_dim

    @num_heads.setter
    def num_heads(self, value: int) -> None:
        vars(self)["num_heads"] = value


@functools.cache
def published_class(elastic: type[nn.Layer]) -> type[nn.Layer]:
    """The published form of an elastic class, registered in the table of layers with the row of that class."""
    if elastic is SuperMultiHeadAttention:
        return _registered(PublishedAttention, elastic)
    members: dict[str, Any] = {"__doc__": elastic.__doc__, "__module__": __name__}
    if elastic.__module__ != SuperMultiHeadAttention.__module__:  # those run Paddle's own forward
        members["forward"] = _forward_of(elastic)
    return _registered(type(elastic.__name__, (Published, elastic), members), elastic)


def publish(model: nn.Layer) -> None:
    """Turns every elastic layer of a model into its published form, in place."""
    for layer in model.sublayers(include_self=True):
        if isinstance(layer, ElasticLayer) and not isinstance(layer, Published):
            elastic: Any = type(layer)
            _swap(layer, published_class(elastic))


def export_attention(model: nn.Layer) -> None:
    """Protects the plain attentions of an exported model from scripts that cut their heads a second time."""
    for layer in model.sublayers(include_self=True):
        if type(layer) is nn.MultiHeadAttention:
            _swap(layer, ExportedAttention)


def plain_attention(model: nn.Layer) -> None:
    """Reverts `export_attention`."""
    for layer in model.sublayers(include_self=True):
        if isinstance(layer, ExportedAttention):
            vars(layer)["num_heads"] = layer.num_heads
            _swap(layer, nn.MultiHeadAttention)


def _swap(layer: nn.Layer, layer_class: type[nn.Layer]) -> None:
    layer.__class__ = layer_class


def _forward_of(elastic: type[nn.Layer]) -> Any:
    """The forward of an elastic class, for a subclass of it."""

    # paddle.jit takes super() for that of the object's own class, which would call the same forward again.
    @paddle.jit.not_to_static
    def forward(self: nn.Layer, *inputs: Any, **kwargs: Any) -> Any:
        return elastic.forward(self, *inputs, **kwargs)

    published: Any = forward
    published.__doc__, published.__signature__ = elastic.forward.__doc__, inspect.signature(elastic.forward)
    return published


def _registered(layer_class: type[nn.Layer], like: type[nn.Layer]) -> type[nn.Layer]:
    """The class, registered with the row of another one."""
    spec: Any = spec_of(like.__new__(like))  # spec_of looks at the class only
    if layer_class not in spec.variants:
        register(replace(spec, variants=(*spec.variants, layer_class)))
    return layer_class


_registered(ExportedAttention, nn.MultiHeadAttention)

_KINDS = (
    *("Conv2D", "Conv2DTranspose", "SeparableConv2D", "GroupConv2D", "DepthwiseConv2D", "GroupConv2DTranspose"),
    *("DepthwiseConv2DTranspose", "BatchNorm2D", "SyncBatchNorm", "InstanceNorm2D", "LayerNorm", "Linear", "Embedding"),
)


def published_layers() -> dict[str, type[nn.Layer]]:
    """The classes of the published module of layers, by name."""
    found = {f"Super{kind}": getattr(elastic_layers, f"Super{kind}") for kind in _KINDS}
    return {name: published_class(one) if issubclass(one, ElasticLayer) else one for name, one in found.items()}
