"""Keeping the number of layers in a model's configuration object correct."""

from __future__ import annotations

import copy
from collections.abc import Callable

from paddle import nn

_DEPTH_KEY = "num_hidden_layers"


def set_config_depth(model: nn.Layer, full: int, depth: int) -> Callable[[], None]:
    """Gives a model's layers a config whose ``num_hidden_layers`` is `depth` where it was `full`.

    The config objects themselves are left alone: other models may share them.

    Returns: a function that puts the old objects back.
    """
    old = [
        (layer, layer.config)
        for layer in model.sublayers(include_self=True)
        if getattr(getattr(layer, "config", None), _DEPTH_KEY, None) == full
    ]
    new = {}
    for layer, config in old:
        if id(config) not in new:
            new[id(config)] = copy.deepcopy(config)
            setattr(new[id(config)], _DEPTH_KEY, depth)
        layer.config = new[id(config)]

    def restore() -> None:
        for layer, config in old:
            layer.config = config

    return restore
