"""One small table per model family, and the search for their stacks in a model."""

from __future__ import annotations

from paddle import nn

from ofa_slim.supernet.families.base import Family, Stack, layer_at, max_sizes, stack_axes
from ofa_slim.supernet.families.transformer_encoder import TRANSFORMER_ENCODER

__all__ = ["FAMILIES", "Family", "Stack", "find_stacks", "layer_at", "max_sizes", "stack_axes"]

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
