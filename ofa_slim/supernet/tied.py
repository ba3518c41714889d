"""Parameters that several layers have in common, kept in common while each layer is cut."""

from __future__ import annotations

from paddle import nn

Ties = list[list[tuple[nn.Layer, str]]]
"""For each parameter of several layers, these layers and its name in each."""


def ties(model: nn.Layer) -> Ties:
    """The parameters that a model has in several places."""
    found: dict[int, list[tuple[nn.Layer, str]]] = {}
    for layer in model.sublayers(include_self=True):
        for name, parameter in layer._parameters.items():
            if parameter is not None:
                found.setdefault(id(parameter), []).append((layer, name))
    return [places for places in found.values() if len(places) > 1]


def tie(groups: Ties) -> None:
    """Makes the parameters of layers that hold the same numbers, as after they were cut alike, one again."""
    for (layer, name), *others in groups:
        first = getattr(layer, name)
        for other, its in others:
            second = getattr(other, its)
            alike = second.shape == first.shape and second.dtype == first.dtype
            if second is not first and alike and bool((second == first).all()):
                setattr(other, its, first)
