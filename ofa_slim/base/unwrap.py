"""Finds the user's model inside its wrappers."""

from __future__ import annotations

import paddle
from paddle import nn


def unwrap(model: nn.Layer) -> nn.Layer:
    """The model inside an `OFA`, a `paddle.DataParallel`, or both."""
    while isinstance(model, paddle.DataParallel) or getattr(model, "wraps_model", False):
        model = next(iter(model.children()))
    return model
