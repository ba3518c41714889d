"""Forward and backward of several sub-networks for one batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import paddle
from paddle import nn

from ofa_slim.base.examples import Example
from ofa_slim.errors import ConfigError
from ofa_slim.supernet.handle import Supernet
from ofa_slim.supernet.layers.affine import whole_backward
from ofa_slim.supernet.subnet_config import SubnetConfig
from ofa_slim.train.distiller import Distiller
from ofa_slim.train.stem import shared

LossFn = Callable[..., paddle.Tensor]


def train_subnets(
    supernet: Supernet,
    model: nn.Layer,
    configs: Sequence[SubnetConfig],
    batch: Example,
    loss_fn: LossFn,
    stem: Sequence[nn.Layer],
    distiller: Distiller | None,
    scale: float,
    scaler: paddle.amp.GradScaler | None,
) -> list[paddle.Tensor]:
    """Forward and backward of several sub-networks; their gradients add up. See `OFA.train_step`.

    Args:
        supernet: the supernet; it runs as before when this returns.
        model: what is called: the supernet's model, or what wraps it.
        configs: the sub-networks.
        batch: the inputs.
        loss_fn: as in `OFA.train_step`.
        stem: layers that run once for all sub-networks.
        distiller: the teacher.
        scale: the losses are multiplied by this before the backward pass.
        scaler: the loss scaling of mixed precision.

    Returns: the loss of each sub-network, in the order of `configs`.
    """
    order = _order(configs, supernet, distiller)
    if distiller is not None:
        distiller.begin(batch.args, dict(batch.kwargs))
    losses: dict[int, paddle.Tensor] = {}
    active = supernet.active
    try:
        with shared(stem) as shared_layers, _without_sync(model), whole_backward():
            for number in order:
                supernet.activate(configs[number])
                arguments = {**supernet.forward_arguments(configs[number]), **batch.kwargs}
                run = partial(model, *batch.args, **arguments)
                losses[number] = train_subnet(run, loss_fn, distiller, scale, scaler)
            for layer in shared_layers:
                layer.backward()
    finally:
        supernet.activate(active)
    return [losses[number] for number in range(len(configs))]


def _order(configs: Sequence[SubnetConfig], supernet: Supernet, distiller: Distiller | None) -> list[int]:
    """The order in which they train: as given, but one that teaches the others goes first."""
    order = list(range(len(configs)))
    if distiller is not None and distiller.own:
        largest = supernet.space.largest()
        if largest not in configs:
            raise ConfigError("the largest sub-network teaches the others, so it has to be among the configs")
        order.sort(key=lambda number: configs[number] != largest)
    return order


def _without_sync(model: nn.Layer) -> AbstractContextManager[Any]:
    """Inside the block backward passes exchange no gradients with other processes."""
    return model.no_sync() if isinstance(model, paddle.DataParallel) else nullcontext()


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
