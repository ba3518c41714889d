"""Sub-networks as lists of whole numbers, for searchers that want them so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ofa_slim.errors import IllegalSubnetError
from ofa_slim.supernet.axis import DEPTH
from ofa_slim.supernet.published import LayerDict
from ofa_slim.supernet.space import SearchSpace

# One choice to be made: the layer (or the axis of depth), what of it, and the choices.
Entry = tuple[str, str, Sequence[float]]


def entries_of_space(layers: Mapping[str, Mapping[str, Sequence[float]]], space: SearchSpace) -> list[Entry]:
    """Every choice of a search space: those of layers ``{layer: {key: choices}}``, then depths."""
    depths = [axis for axis in space.axes if axis.task == DEPTH and axis.elastic]
    return [
        *((layer, key, choices) for layer, found in layers.items() for key, choices in found.items()),
        *((axis.name, DEPTH, axis.choices) for axis in depths),
    ]


def numbered(entries: Sequence[Entry]) -> list[list[int]]:
    """A number for each choice of each entry, counted over all."""
    numbers: list[list[int]] = []
    count = 0
    for _, _, choices in entries:
        numbers.append(list(range(count, count + len(choices))))
        count += len(choices)
    return numbers


def decoded(token: Sequence[int], entries: Sequence[Entry]) -> LayerDict:
    """The per-layer dictionary of a token, which has one number for each entry.

    Raises: IllegalSubnetError for a token of another length, or a number that is not of its entry.
    """
    if len(token) != len(entries):
        raise IllegalSubnetError(f"token has {len(token)} numbers; there are {len(entries)} entries")
    config: LayerDict = {}
    for number, legal, (layer, key, choices) in zip(token, numbered(entries), entries, strict=True):
        if number not in legal:
            raise IllegalSubnetError(f"token: {number!r} is not one of {legal}, the choices of {layer!r}")
        value = choices[legal.index(number)]
        if key == DEPTH:
            config.setdefault(DEPTH, {})[layer] = value
        else:
            config.setdefault(layer, {})[key] = value
    return config
