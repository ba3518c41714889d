"""Forward and backward of one sub-network for one batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import paddle

from ofa_slim.errors import ConfigError
from ofa_slim.train.distiller import Distiller

LossFn = Callable[..., paddle.Tensor]


def train_subnet(
    run: Callable[[], Any],
    loss_fn: LossFn,
    distiller: Distiller | None,
    scale: float,
    scaler: paddle.amp.GradScaler | None,
) -> paddle.Tensor:
    """Runs the active sub-network forward and backward; its activations are free when this returns.

    Args:
        run: computes the sub-network's output.
        loss_fn: ``loss_fn(output, teacher's output)``, or ``loss_fn(output)`` where nobody has answered.
        distiller: has the teacher's answer and adds the mapped layers' loss; where it waits for the answer of
            the largest sub-network, this is that one.
        scale: the loss is multiplied by this before the backward pass.
        scaler: of mixed precision.

    Returns: the loss, scalar, without its graph.

    Raises: ConfigError for a loss that is no scalar tensor.
    """
    if distiller is None:
        loss = _checked(loss_fn(run()))
    else:
        loss = _taught(run, loss_fn, distiller)
    scaled = loss if scale == 1.0 else loss * scale
    (scaled if scaler is None else scaler.scale(scaled)).backward()
    return loss.detach()


def _taught(run: Callable[[], Any], loss_fn: LossFn, distiller: Distiller) -> paddle.Tensor:
    try:
        with distiller.recording() as hidden:
            output = run()
        if distiller.waits:
            loss = _checked(loss_fn(output))
            distiller.take(output, hidden)
            return loss
        loss = _checked(loss_fn(output, distiller.answered))
        return loss + distiller.loss() if distiller.mapping else loss
    finally:
        distiller.forget()


def _checked(loss: Any) -> paddle.Tensor:
    if not isinstance(loss, paddle.Tensor) or loss.size != 1:
        found = f"a tensor of shape {list(loss.shape)}" if isinstance(loss, paddle.Tensor) else type(loss).__name__
        raise ConfigError(f"loss_fn returned {found}, not a tensor with one number")
    return loss
