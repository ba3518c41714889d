"""Which block of a model is which block of the larger one that it was cut out of."""

from __future__ import annotations

from paddle import nn

from ofa_slim.errors import ConfigError
from ofa_slim.supernet.families import find_stacks
from ofa_slim.supernet.layers import kept_layers


def twin_blocks(model: nn.Layer, original: nn.Layer) -> dict[str, str]:
    """For the path of each block of a smaller model, that of the same block in the original.

    Raises: ConfigError where the two do not belong together.
    """
    small, large = find_stacks(model), find_stacks(original)
    if [stack.path for stack in small] != [stack.path for stack in large]:
        raise ConfigError("the smaller model and the original do not have the same stacks of blocks")
    found = {}
    for one, other in zip(small, large, strict=True):
        paths = list(other.blocks)
        if len(one.blocks) > len(paths):
            raise ConfigError(f"{one.path}: the smaller model has more blocks than the original")
        for path, kept in zip(one.blocks, kept_layers(len(one.blocks), len(paths)), strict=True):
            found[path] = paths[kept]
    return found
