"""Finds the user's model inside its wrappers."""

from __future__ import annotations

import paddle
from paddle import nn

_FLEET = "paddle.distributed.fleet.meta_parallel."
"""The module of the layers that `fleet.distributed_model` returns; their classes are not public."""


def unwrap(model: nn.Layer) -> nn.Layer:
    """The model inside an `OFA`, a `paddle.DataParallel`, a layer of Fleet, or several of them."""
    while (
        isinstance(model, paddle.DataParallel)
        or getattr(model, "wraps_model", False)
        or type(model).__module__.startswith(_FLEET)
    ):
        model = next(iter(model.children()))
    return model
