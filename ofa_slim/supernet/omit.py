"""Leaving sub-layers of size 0 out of a plain model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from paddle import nn

from ofa_slim.supernet.axis import Axis, Bypass
from ofa_slim.supernet.layers import BiasOnly, FirstChannel
from ofa_slim.supernet.paths import layer_at, parent_at
from ofa_slim.supernet.spec import Extent, Sizes, length

Undo = Callable[[], None]


def omitted(axes: Iterable[Axis], config: Mapping[str, int]) -> list[Bypass]:
    """The sub-layers that a config leaves out."""
    return [bypass for axis in axes if not config[axis.name] for bypass in axis.bypasses]


def omitting(model: nn.Layer, bypass: Bypass) -> Callable[[], Undo]:
    """Looks a sub-layer up.

    Args:
        model: a plain model.
        bypass: the sub-layer.

    Returns: a function that puts the bias of its output matrix in its place, and returns one that puts it back.
    """
    matrix = layer_at(model, bypass.matrix)
    places = [parent_at(model, path) for path in (bypass.output, bypass.input) if path]
    before = [getattr(parent, name) for parent, name in places]

    def undo() -> None:
        for (parent, name), old in zip(places, before, strict=True):
            setattr(parent, name, old)

    def omit() -> Undo:
        for (parent, name), new in zip(places, (BiasOnly(matrix.bias), FirstChannel()), strict=False):
            new.training = parent.training
            setattr(parent, name, new)
        return undo

    return omit


def above_zero(sizes: Sizes) -> dict[str, Extent]:
    """The sizes of a layer that can be cut; what has size 0 is omitted."""
    return {role: extent for role, extent in sizes.items() if length(extent)}
