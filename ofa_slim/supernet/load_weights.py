"""Loading an original model's weights into a supernet."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import paddle
from paddle import nn

from ofa_slim.base.checks import check_kind, check_layer
from ofa_slim.errors import ConvertError

logger = logging.getLogger(__name__)


def set_state_dict(model: nn.Layer, state_dict: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Loads an original model's weights into a supernet, or into its leading slices where it is larger.

    Args:
        model: a supernet or a plain model; every Parameter object stays.
        state_dict: ``{key: tensor or array}``, each with the shape of the model's or smaller.

    Returns: the model's keys that are missing in `state_dict`, and the keys of `state_dict` that were not used.

    Raises: ConvertError where a tensor does not fit; nothing is loaded then.
    """
    check_layer(model, "model", ConvertError)
    check_kind(state_dict, Mapping, "state_dict", ConvertError)
    own = model.state_dict()
    values = {}
    for key, given in state_dict.items():
        if key not in own:
            continue
        value = given if isinstance(given, paddle.Tensor) else paddle.to_tensor(given)
        target = own[key]
        fits = len(value.shape) == len(target.shape) and all(
            small <= large for small, large in zip(value.shape, target.shape, strict=True)
        )
        if not fits:
            raise ConvertError(f"{key}: shape {list(value.shape)} does not fit into {list(target.shape)}")
        values[key] = value.astype(target.dtype)
    with paddle.no_grad():
        for key, value in values.items():
            target = own[key]
            if list(value.shape) != list(target.shape):
                whole = target.clone()
                whole[tuple(slice(0, size) for size in value.shape)] = value
                value = whole
            target.set_value(value)
    unused = [key for key in state_dict if key not in own]
    if unused:
        logger.warning("%d keys of the state dict were not used: %s", len(unused), ", ".join(unused))
    return [key for key in own if key not in state_dict], unused
