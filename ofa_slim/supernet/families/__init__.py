"""One small table per model family, and the search for their stacks in a model."""

from __future__ import annotations

from paddle import nn

from ofa_slim.supernet.families.base import Family, Stack, layer_at, max_sizes, stack_axes
from ofa_slim.supernet.families.transformer_encoder import TRANSFORMER_ENCODER
from ofa_slim.supernet.space import Axis, Fixed, SearchSpace
from ofa_slim.supernet.spec import spec_of

__all__ = ["FAMILIES", "Family", "Stack", "find_stacks", "full_space", "layer_at", "max_sizes"]

FAMILIES: tuple[Family, ...] = (TRANSFORMER_ENCODER,)


def find_stacks(model: nn.Layer) -> list[Stack]:
    """Every stack of a known family in a model, in definition order.

    A lone stack is named by the last part of its path (`encoder`), so that configs carry over between
    models that wrap the same encoder; several are named by their whole paths.
    """
    found = []
    for path, layer in model.named_sublayers(include_self=True):
        for family in FAMILIES:
            if isinstance(layer, family.stack_class):
                found.append((family, path, layer))
                break
    stacks = []
    for family, path, layer in found:
        blocks = tuple(layer_at(layer, family.layers).children())
        name = path if len(found) > 1 else path.rpartition(".")[2]
        stacks.append(Stack(family, path, name or "encoder", blocks))
    return stacks


def full_space(model: nn.Layer) -> SearchSpace:
    """The axes of a model, each with its full size as the only choice, and the layers on none of them."""
    rows = [row for stack in find_stacks(model) for row in stack_axes(model, stack)]
    axes = [row for row in rows if isinstance(row, Axis)]
    fixed = [row for row in rows if isinstance(row, Fixed)]
    taken = {slot.layer for axis in axes for slot in axis.slots} | {row.layer for row in fixed}
    for path, layer in model.named_sublayers(include_self=True):
        spec = spec_of(layer)
        if path in taken or spec is None or spec.width is None:
            continue
        fixed.append(Fixed(path, "its width is that of the residual stream, an input or an output"))
    return SearchSpace(axes, fixed)
