"""What a saved sub-network says of layers of the model's own classes: shapes of what they hold, and their numbers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import paddle
from paddle import nn

from ofa_slim.errors import ExportError
from ofa_slim.supernet.layers import changed_numbers, cut_layer, cut_numbers, numbers_in, parameter_roles
from ofa_slim.supernet.spec import Extent, spec_of


def cut_to_shapes(model: nn.Layer, state: Mapping[str, paddle.Tensor]) -> None:
    """Gives parameters and buffers that layers of the user's own classes hold the smaller shapes that were saved."""
    for path, layer in model.named_sublayers(include_self=True):
        if spec_of(layer) is not None:
            continue
        sizes: dict[str, Extent] = {}
        for name, whole in {**layer._parameters, **layer._buffers}.items():
            saved = state.get(f"{path}.{name}" if path else name)
            if whole is None or saved is None or saved.ndim != whole.ndim:
                continue
            pairs = zip(parameter_roles(name, whole.ndim), saved.shape, whole.shape, strict=True)
            sizes |= {role: size for role, size, full in pairs if size < full}
        cut_layer(layer, sizes)


def numbers_of(model: nn.Layer) -> dict[str, dict[str, int]]:
    """The numbers that cutting a plain model has changed, by the layer's path."""
    found = {path: changed_numbers(layer) for path, layer in model.named_sublayers(include_self=True)}
    return {path: numbers for path, numbers in found.items() if numbers}


def set_numbers(model: nn.Layer, numbers: Any, file: Path) -> None:
    """Gives the layers of a model the numbers that were saved.

    Raises: ExportError for what is no number of a layer of the model, naming `file`.
    """
    layers = dict(model.named_sublayers(include_self=True))
    for path, saved in numbers.items() if isinstance(numbers, dict) else [("", numbers)]:
        own = dict(numbers_in(layers[path])) if path in layers else {}
        for name, number in saved.items() if isinstance(saved, dict) else [("", saved)]:
            if name not in own or type(number) is not int or not 1 <= number <= own[name]:
                raise ExportError(f"{file} gives layer {path!r} the number {name!r}: {number!r}")
        cut_numbers(layers[path], saved)
