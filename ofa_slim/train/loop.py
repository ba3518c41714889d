"""The training loop: progress, checkpoints, a stop on request, several processes."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import paddle
from paddle import nn

from ofa_slim.base.modes import rest_dropout
from ofa_slim.base.progress import progress
from ofa_slim.base.unwrap import unwrap
from ofa_slim.errors import ConfigError, OfaSlimError, StoppedError
from ofa_slim.train import parallel
from ofa_slim.train.checkpoint import CheckpointManager, stop_on_signals
from ofa_slim.train.feeds import Feed

Scalars = Callable[[str, float, int], None]

# Adds the gradients of a batch: (batch, scale of the loss, scaler) -> what trained, each with its loss.
Step = Callable[[Any, float, paddle.amp.GradScaler | None], Sequence[tuple[Any, paddle.Tensor]]]

READ_EVERY = 10  # steps between two reads of the loss


class DivergedError(OfaSlimError, ArithmeticError):
    """The loss of a training became infinite or not a number."""


def no_scalars(name: str, value: float, step: int) -> None:
    """Drops a scalar."""


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train.

    Attributes:
        epochs: passes over the examples.
        batch_size: rows per batch, of all processes together.
        learning_rate: the highest; it rises linearly from 0 and falls linearly to 0.
        warmup: share of the steps over which it rises.
        weight_decay: AdamW's, on matrices only.
        accumulate: batches whose gradients add up to one step of the optimizer.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    warmup: float = 0.1
    weight_decay: float = 0.01
    accumulate: int = 1


@dataclass(frozen=True)
class RuntimeOptions:
    """What surrounds a training and does not change what it computes, but for `seed`, `amp` and `dropout`.

    Attributes:
        scalars: receives loss and learning rate.
        seed: of dropout; each step and process has its own, derived from it. None: Paddle's random state is left
            alone, which is right for one process only.
        amp: mixed precision.
        dropout: whether layers of dropout and attentions drop, at the rates that they have.
        checkpoints: folder for checkpoints; None for none.
        recipe: the settings that checkpoints are made with.
        every: steps between two checkpoints.
        after_step: called after each step with its number, from 1.
    """

    scalars: Scalars = no_scalars
    seed: int | None = None
    amp: Literal["off", "bf16", "fp16"] = "off"
    dropout: bool = True
    checkpoints: Path | None = None
    recipe: dict[str, Any] = field(default_factory=dict)
    every: int = 100
    after_step: Callable[[int], None] | None = None


def train(
    model: nn.Layer,
    step: Step,
    feed: Feed,
    schedule: Schedule,
    title: str,
    options: RuntimeOptions,
    draws: np.random.Generator | None = None,
) -> None:
    """Trains a model, from its checkpoint where there is one; it is left in eval mode.

    Args:
        model: whose parameters train.
        step: adds the gradients of a batch.
        feed: the batches of each step; `Schedule.epochs`, `batch_size` and `accumulate` are the feed's.
        schedule: how fast.
        title: of the progress bar and the scalars.
        options: what surrounds it.
        draws: what `step` draws from, if it does.

    Raises: ConfigError where no parameter trains; DivergedError where the loss is not finite; StoppedError on SIGTERM
        or SIGINT, after a checkpoint.
    """
    if not feed.steps:
        return
    parameters = [parameter for parameter in model.parameters() if not parameter.stop_gradient]
    if not parameters:
        raise ConfigError(
            f"{title}: no parameter of {type(unwrap(model)).__name__} trains; all have stop_gradient=True"
        )
    rate, optimizer = _optimizer(model, schedule, feed.steps)
    scaler = paddle.amp.GradScaler() if options.amp == "fp16" else None
    parts: dict[str, Any] = {"model": model, "optimizer": optimizer, "scheduler": rate, "feed": feed}
    parts |= {name: part for name, part in (("scaler", scaler), ("draws", draws)) if part is not None}
    checkpoints = None if options.checkpoints is None else CheckpointManager(options.checkpoints, options.recipe)
    done = (checkpoints.restore(parts) if checkpoints else None) or 0
    losses = LossReader(title, checkpoints)
    model.train()
    if not options.dropout:
        rest_dropout(model)
    bar = progress(feed.steps, title, "steps", initial=done, show=parallel.is_writer())
    with bar, stop_on_signals() as stop:
        for number in range(done + 1, feed.steps + 1):
            if options.seed is not None:
                # What a step drops does not depend on where a run was resumed.
                paddle.seed(derived_seed(options.seed, number, paddle.distributed.get_rank()))
            group = feed.next_group()
            for batch, weight in group:
                with paddle.enable_grad(), _precision(options.amp):
                    step_losses = step(batch, weight / len(group), scaler)
                losses.add(number, step_losses, weight)
            parallel.reduce_gradients(parameters)
            _move(optimizer, scaler)
            rate.step()
            bar.update()
            last = number == feed.steps
            reads = last or number % READ_EVERY == 0
            stopping = _any_process(stop.requested, reads)
            saves = checkpoints is not None and (last or stopping or number % options.every == 0)
            # Reading a loss waits for the device, so it is not done in every step, but before each checkpoint.
            if reads or saves:
                loss = losses.read()
                options.scalars(f"{title}/learning_rate", optimizer.get_lr(), number)
                options.scalars(f"{title}/loss", loss, number)
                bar.set_postfix_str(f"loss {loss:.4f}", refresh=False)
            if checkpoints is not None and saves:
                _save(checkpoints, number, parts)
            if options.after_step is not None:
                options.after_step(number)
            if stopping and not last:
                message = f"{title}: stopped after step {number} of {feed.steps}"
                if checkpoints is not None:
                    message += f"; its checkpoint is in {options.checkpoints}, the same command goes on"
                raise StoppedError(message, stop.signal or signal.SIGTERM)
    model.eval()


class LossReader:
    """Losses that are still on the device, by step and by what had them.

    Args:
        title: of the training, for errors.
        checkpoints: of the training, for errors.
    """

    def __init__(self, title: str, checkpoints: CheckpointManager | None) -> None:
        self._title = title
        self._checkpoints = checkpoints
        self._losses: list[tuple[int, Any, paddle.Tensor]] = []

    def add(self, number: int, losses: Sequence[tuple[Any, paddle.Tensor]], weight: float) -> None:
        """Keeps the losses of a step, of which this process has a share of `weight`."""
        self._losses += [(number, name, loss * weight) for name, loss in losses]

    def read(self) -> float:
        """The mean over what was added since the last time, over all processes.

        Raises: DivergedError for a loss that is not finite, with its step and what had it.
        """
        values = parallel.mean_over_ranks(paddle.stack([loss.astype("float32") for _, _, loss in self._losses])).numpy()
        for (step, name, _), value in zip(self._losses, values, strict=True):
            if not np.isfinite(value):
                latest = None if self._checkpoints is None else self._checkpoints.latest
                good = "" if latest is None else f" The last good checkpoint is {latest.path}."
                raise DivergedError(
                    f"{self._title}: the loss became {value} at step {step}, of {name}. A lower learning rate may "
                    f"help.{good}"
                )
        self._losses.clear()
        return float(values.mean())


def _move(optimizer: paddle.optimizer.Optimizer, scaler: paddle.amp.GradScaler | None) -> None:
    if scaler is None:
        optimizer.step()
    else:
        scaler.step(optimizer)
        scaler.update()
    optimizer.clear_grad()


def _save(checkpoints: CheckpointManager, number: int, parts: dict[str, Any]) -> None:
    """One process writes, and the others wait for it."""
    if parallel.is_writer():
        checkpoints.save(number, parts)
    parallel.barrier()


def _any_process(wish: bool, reads: bool) -> bool:
    """Whether any process wishes so; several processes exchange that only where they read losses anyway."""
    if paddle.distributed.get_world_size() == 1:
        return wish
    return reads and float(parallel.mean_over_ranks(paddle.to_tensor(float(wish)))) > 0


def derived_seed(*numbers: int) -> int:
    """A seed of its own for each epoch, step or process."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def _precision(amp: str) -> AbstractContextManager[Any]:
    if amp == "off":
        return nullcontext()
    return paddle.amp.auto_cast(level="O1", dtype="bfloat16" if amp == "bf16" else "float16")


def linear_schedule(step: int, steps: int, warmup: float) -> float:
    """The share of the highest learning rate at a step: up linearly over the warm-up, then down to 0."""
    rising = warmup * steps
    if step < rising:
        return (step + 1) / (rising + 1)
    return max(0.0, (steps - step) / max(1.0, steps - rising))


def _optimizer(
    model: nn.Layer, schedule: Schedule, steps: int
) -> tuple[paddle.optimizer.lr.LambdaDecay, paddle.optimizer.AdamW]:
    """AdamW with linear warm-up and decay; biases and norms, which have one dimension, do not decay."""
    rate = paddle.optimizer.lr.LambdaDecay(
        schedule.learning_rate, lambda step: linear_schedule(step, steps, schedule.warmup)
    )
    matrices = {parameter.name for parameter in model.parameters() if parameter.ndim > 1}
    optimizer = paddle.optimizer.AdamW(
        learning_rate=rate,
        parameters=model.parameters(),
        weight_decay=schedule.weight_decay,
        apply_decay_param_fun=lambda name: name in matrices,
        grad_clip=nn.ClipGradByGlobalNorm(1.0),
    )
    return rate, optimizer
