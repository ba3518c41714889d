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
from ofa_slim.train.teacher import Answer

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
        distiller.begin(batch)
    answer = None if distiller is None or distiller.own else distiller.answer(batch, new=True)
    losses: dict[int, paddle.Tensor] = {}
    active = supernet.active
    try:
        # Whatever the caller's process was left in: a step without gradients would train nothing.
        with paddle.enable_grad(), shared(stem) as shared_layers, _without_sync(model), whole_backward():
            for number in order:
                supernet.activate(configs[number])
                arguments = {**supernet.forward_arguments(configs[number]), **batch.kwargs}
                run = partial(model, *batch.args, **arguments)
                losses[number], answer = _train_subnet(run, loss_fn, distiller, answer, scale, scaler)
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


def _train_subnet(
    run: Callable[[], Any],
    loss_fn: LossFn,
    distiller: Distiller | None,
    answer: Answer | None,
    scale: float,
    scaler: paddle.amp.GradScaler | None,
) -> tuple[paddle.Tensor, Answer | None]:
    """Runs the active sub-network forward and backward; its activations are freed when this returns.

    Returns: the loss, scalar, without its graph; and the answer that the other sub-networks learn from. Where none is
        given although there is a distiller, this sub-network is the largest, and its own output becomes the answer.
    """
    with nullcontext({}) if distiller is None else distiller.record() as hidden:
        output = run()
    if distiller is None:
        loss = _checked(loss_fn(output))
    elif answer is None:
        loss = _checked(loss_fn(output))
        answer = Answer(output, hidden).detached()
    else:
        loss = _checked(loss_fn(output, answer.output))
        if distiller.compares:
            loss = loss + distiller.loss(hidden, answer)
    scaled = loss if scale == 1.0 else loss * scale
    (scaled if scaler is None else scaler.scale(scaled)).backward()
    return loss.detach(), answer


def _checked(loss: Any) -> paddle.Tensor:
    if not isinstance(loss, paddle.Tensor) or loss.size != 1:
        found = f"a tensor of shape {list(loss.shape)}" if isinstance(loss, paddle.Tensor) else type(loss).__name__
        raise ConfigError(f"loss_fn returned {found}, not a tensor with one number")
    return loss
