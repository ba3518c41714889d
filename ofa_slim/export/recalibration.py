"""Re-estimating the running statistics of batch norms for one network.

Those of a supernet are a mixture over the trained sub-networks, which fits none of them.
Source: Yu and Huang 2019, Universally Slimmable Networks, arXiv:1903.05134, section 3.2.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice, takewhile
from typing import Any

import paddle
from paddle import nn

from ofa_slim.base.checks import check_whole
from ofa_slim.base.modes import forward_signature, modes_kept
from ofa_slim.errors import ConfigError
from ofa_slim.supernet.axis import DEPTH
from ofa_slim.supernet.spec import classes_with_statistics


def recalibrate(
    model: nn.Layer, loader: Iterable[Any], batches: int | None = None, more: Mapping[str, int] | None = None
) -> int:
    """Sets the running statistics of a model's batch norms to their means over some batches, in place.

    Only batch norms run in training mode meanwhile; afterwards the model's modes are as before.
    With a sub-network active, only the statistics of its channels change.

    Args:
        model: any layer; without batch norms nothing is done.
        loader: batches of inputs: tensors, tuples or lists of positional inputs (of which as many are used as
            the model's forward takes before ``depth``), or dictionaries of keyword inputs.
        batches: how many to use; None: all.
        more: further arguments of its forward, such as ``depth``.

    Returns: how many batches were used.

    Raises: ConfigError where `batches` is not at least 1, or the loader gives none.
    """
    if batches is not None:
        check_whole(batches, "batches", 1, ConfigError)
    norms = [layer for layer in model.sublayers(include_self=True) if isinstance(layer, classes_with_statistics())]
    if not norms:
        return 0
    momenta = [norm._momentum for norm in norms]
    used = 0
    try:
        with modes_kept(model), paddle.no_grad():
            model.eval()
            for norm in norms:
                norm.train()
            for batch in islice(loader, batches):
                for norm in norms:
                    # The mean of the batches so far: Paddle keeps `momentum` of the old statistics.
                    norm._momentum = used / (used + 1)
                _call(model, batch, more or {})
                used += 1
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm._momentum = momentum
    if not used:
        raise ConfigError("recalibrate: the loader gave no batch")
    return used


def _call(model: nn.Layer, batch: Any, more: Mapping[str, int]) -> None:
    if isinstance(batch, Mapping):
        model(**{**more, **batch})
    elif isinstance(batch, (tuple, list)):
        model(*batch[: _positional(model)], **more)
    else:
        model(batch, **more)


def _positional(model: nn.Layer) -> int | None:
    """How many positional inputs a model's forward takes before ``depth``; None for any number."""
    parameters = forward_signature(model).parameters.values()
    if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters):
        return None
    before = takewhile(lambda parameter: parameter.name != DEPTH, parameters)
    return sum(parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD) for parameter in before)
