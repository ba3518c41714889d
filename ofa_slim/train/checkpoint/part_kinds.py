"""Finds the class of `Part` for each object of a run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import paddle
from paddle import nn

from ofa_slim.errors import CheckpointError
from ofa_slim.train.checkpoint.optimizers import OptimizerPart, ParameterKeys
from ofa_slim.train.checkpoint.parts import GeneratorPart, Part, StatefulPart, TensorsPart

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")  # so no part has the name of a file that the manager writes itself


def parts_of(given: Mapping[str, Any]) -> dict[str, Part]:
    """The parts by name; the optimizers among them know the tensors of all others.

    Raises: CheckpointError for a name that is not an identifier, and for an object that cannot be a part.
    """
    for name in given:
        if not isinstance(name, str) or not _NAME.fullmatch(name) or name == "manifest":
            raise CheckpointError(f"{name!r} is not the name of a part: letters, digits and _, other than 'manifest'")
    tensors = {name: part for name, value in given.items() if (part := _tensors(name, value)) is not None}
    keys = ParameterKeys(tensors.values())
    return {name: tensors[name] if name in tensors else _other(name, value, keys) for name, value in given.items()}


def _tensors(name: str, value: Any) -> TensorsPart | None:
    if isinstance(value, nn.Layer):
        return TensorsPart(name, "layer", value.state_dict())
    if isinstance(value, Mapping):
        return TensorsPart(name, "tensors", value)
    if isinstance(value, (list, tuple)):
        return TensorsPart(name, "tensors", {str(number): tensor for number, tensor in enumerate(value)})
    return None


def _other(name: str, value: Any, keys: ParameterKeys) -> Part:
    if isinstance(value, paddle.optimizer.Optimizer):
        return OptimizerPart(name, value, keys)
    if isinstance(value, np.random.Generator):
        return GeneratorPart(name, value)
    return StatefulPart(name, value)
