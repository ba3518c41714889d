"""Copies of models."""

from __future__ import annotations

import copy
from typing import Any, TypeVar

import paddle
from paddle import nn

Model = TypeVar("Model", bound=nn.Layer)


def copied(model: Model) -> Model:
    """A copy of a model with its own layers, parameters and settings.

    What a layer has besides and cannot be copied (a lock, an open file, an optimizer) the copy has in common with it.
    """
    try:
        return copy.deepcopy(model)
    except Exception:
        shared = {id(value): value for value in _uncopyable(model)}
        if not shared:
            raise
        return copy.deepcopy(model, shared)


def _uncopyable(model: nn.Layer) -> list[Any]:
    """The attributes of layers, none of them part of the model, that fail when they are copied."""
    held = [value for layer in model.sublayers(include_self=True) for value in vars(layer).values()]
    found = []
    for value in held:
        if isinstance(value, (nn.Layer, paddle.Tensor, dict)) or getattr(value, "__self__", None) is not None:
            continue
        try:
            copy.deepcopy(value)
        except Exception:
            found.append(value)
    return found
