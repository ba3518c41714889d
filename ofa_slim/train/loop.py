"""The training loop: progress, checkpoints, a stop on request, several processes. Everything is an argument."""

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
from tqdm import tqdm

from ofa_slim.errors import OfaSlimError
from ofa_slim.train import parallel
from ofa_slim.train.batches import Batch, Batches, Examples
from ofa_slim.train.checkpoint import CheckpointManager, stop_on_signals

Scalars = Callable[[str, float, int], None]

# Adds the gradients of a batch: (batch, scale of the loss, scaler) -> what trained, each with its loss.
Step = Callable[[Batch, float, paddle.amp.GradScaler | None], Sequence[tuple[Any, paddle.Tensor]]]

READ_EVERY = 10  # steps between two looks at the loss


class DivergedError(OfaSlimError, ArithmeticError):
    """A training whose loss is no number any more."""


class StoppedError(OfaSlimError, RuntimeError):
    """A training that a signal stopped; `signal` says which."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.signal = number


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
    """What surrounds a training and does not change what it computes, but for `seed` and `amp`.

    Attributes:
        scalars: receives loss and learning rate.
        seed: of dropout; each step and process has its own, derived from it. None: Paddle's random state goes on as
            it is, which serves one process.
        amp: mixed precision.
        checkpoints: folder for checkpoints; None for none.
        recipe: the settings that checkpoints belong to.
        every: steps between two checkpoints.
        after_step: called after each step with its number, from 1.
    """

    scalars: Scalars = no_scalars
    seed: int | None = None
    amp: Literal["off", "bf16", "fp16"] = "off"
    checkpoints: Path | None = None
    recipe: dict[str, Any] = field(default_factory=dict)
    every: int = 100
    after_step: Callable[[int], None] | None = None


class ResumableSampler:
    """The batches of all epochs, in groups of one optimizer step; it can go on from where another one was.

    Args:
        batches: goes through the examples in a new order each time, drawn from `rng`.
        epochs: how many passes.
        accumulate: batches per group.
        rng: orders the batches; drawn from at the start of each epoch.
    """

    def __init__(self, batches: Batches, epochs: int, accumulate: int, rng: np.random.Generator) -> None:
        self._batches = batches
        self._group = accumulate
        self._rng = rng
        self._total = epochs * len(batches)
        self._taken = 0
        self._epoch_state = rng.bit_generator.state
        self._order: list[np.ndarray] = []

    @property
    def steps(self) -> int:
        """Groups in all epochs together."""
        return -(-self._total // self._group)

    def next_group(self) -> list[np.ndarray]:
        """The rows of the next batches: as many as make a step, fewer at the very end."""
        group: list[np.ndarray] = []
        while len(group) < self._group and self._taken < self._total:
            place = self._taken % len(self._batches)
            if place == 0:
                self._epoch_state = self._rng.bit_generator.state
                self._order = self._batches.order(self._rng)
            group.append(self._order[place])
            self._taken += 1
        return group

    def state_dict(self) -> dict[str, Any]:
        """Where it is: the batches taken, and the generator's state before it drew this epoch's order and now."""
        return {"taken": self._taken, "epoch": self._epoch_state, "rng": self._rng.bit_generator.state}

    def set_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a state."""
        self._taken, self._epoch_state = state["taken"], state["epoch"]
        if self._taken % len(self._batches):
            self._rng.bit_generator.state = self._epoch_state
            self._order = self._batches.order(self._rng)
        self._rng.bit_generator.state = state["rng"]


def train(
    model: nn.Layer,
    step: Step,
    examples: Examples,
    schedule: Schedule,
    rng: np.random.Generator,
    title: str,
    options: RuntimeOptions,
    draws: np.random.Generator | None = None,
) -> None:
    """Trains a model, from its checkpoint where there is one; it is left in eval mode.

    Args:
        model: whose parameters train.
        step: adds the gradients of a batch.
        examples: what it trains on.
        schedule: how long and how fast.
        rng: orders the batches.
        title: of the progress bar and the scalars.
        options: what surrounds it.
        draws: what `step` draws from, if it does.

    Raises: DivergedError where the loss is no number any more; StoppedError on SIGTERM or SIGINT, after a
        checkpoint.
    """
    batches = Batches(examples, schedule.batch_size)
    feed = ResumableSampler(batches, schedule.epochs, schedule.accumulate, rng)
    if not feed.steps:
        return
    rate, optimizer = _optimizer(model, schedule, feed.steps)
    scaler = paddle.amp.GradScaler() if options.amp == "fp16" else None
    parts: dict[str, Any] = {"model": model, "optimizer": optimizer, "scheduler": rate, "feed": feed}
    parts |= {name: part for name, part in (("scaler", scaler), ("draws", draws)) if part is not None}
    kept = None if options.checkpoints is None else CheckpointManager(options.checkpoints, options.recipe)
    done = (kept.restore(parts) if kept else None) or 0
    losses = Losses(title, kept)
    parameters = [parameter for parameter in model.parameters() if not parameter.stop_gradient]
    model.train()
    bar = tqdm(
        total=feed.steps, initial=done, desc=title, unit="step", dynamic_ncols=True, disable=not parallel.is_writer()
    )
    with bar, stop_on_signals() as stop:
        for number in range(done + 1, feed.steps + 1):
            if options.seed is not None:
                paddle.seed(_seed(options.seed, number))
            group = feed.next_group()
            for rows in group:
                own, weight = parallel.training_rows(len(rows))
                with _precision(options.amp):
                    found = step(batches.batch(rows, own), weight / len(group), scaler)
                losses.add(number, found, weight)
            parallel.reduce_gradients(parameters)
            _move(optimizer, scaler)
            rate.step()
            bar.update()
            last = number == feed.steps
            looks = last or number % READ_EVERY == 0
            stopping = _agreed(stop.requested, looks)
            saves = kept is not None and (last or stopping or number % options.every == 0)
            # Reading a loss waits for the device, so it is not done in every step, but before each checkpoint.
            if looks or saves:
                loss = losses.read(number)
                options.scalars(f"{title}/learning_rate", optimizer.get_lr(), number)
                options.scalars(f"{title}/loss", loss, number)
                bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
            if kept is not None and saves:
                _save(kept, number, parts)
            if options.after_step is not None:
                options.after_step(number)
            if stopping and not last:
                goes_on = f"; its checkpoint is in {options.checkpoints}, the same command goes on" if kept else ""
                said = f"{title}: stopped after step {number} of {feed.steps}{goes_on}"
                raise StoppedError(said, stop.signal or signal.SIGTERM)
    model.eval()


class Losses:
    """Losses that are still on the device, by step and by what had them.

    Args:
        title: of the training, for errors.
        kept: its checkpoints, for errors.
    """

    def __init__(self, title: str, kept: CheckpointManager | None) -> None:
        self._title = title
        self._kept = kept
        self._found: list[tuple[int, Any, paddle.Tensor]] = []

    def add(self, number: int, losses: Sequence[tuple[Any, paddle.Tensor]], weight: float) -> None:
        """Keeps the losses of a step, of which this process had `weight`."""
        self._found += [(number, name, loss * weight) for name, loss in losses]

    def read(self, number: int) -> float:
        """The mean over what was added since the last time, over all processes.

        Raises: DivergedError for a loss that is no number, with its step and what had it.
        """
        values = parallel.mean_over_ranks(paddle.stack([loss.astype("float32") for _, _, loss in self._found])).numpy()
        for (step, name, _), value in zip(self._found, values, strict=True):
            if not np.isfinite(value):
                best = self._kept.latest if self._kept is not None else None
                good = f" The last good checkpoint is {best.path}." if best is not None else ""
                raise DivergedError(
                    f"{self._title}: the loss became {value} at step {step}, of {name}. A lower learning rate may "
                    f"help.{good}"
                )
        self._found.clear()
        return float(values.mean())


def _move(optimizer: paddle.optimizer.Optimizer, scaler: paddle.amp.GradScaler | None) -> None:
    if scaler is None:
        optimizer.step()
    else:
        scaler.step(optimizer)
        scaler.update()
    optimizer.clear_grad()


def _save(kept: CheckpointManager, number: int, parts: dict[str, Any]) -> None:
    """One process writes, and none goes on before it has."""
    if parallel.is_writer():
        kept.save(number, parts)
    parallel.barrier()


def _agreed(wish: bool, looks: bool) -> bool:
    """Whether any process wishes so; several processes ask each other only where they look at losses anyway."""
    if paddle.distributed.get_world_size() == 1:
        return wish
    return looks and float(parallel.mean_over_ranks(paddle.to_tensor(float(wish)))) > 0


def _seed(seed: int, number: int) -> int:
    """A seed for each step and process: what a step drops does not depend on where a run was resumed."""
    rank = paddle.distributed.get_rank()
    return int(np.random.SeedSequence([seed, number, rank]).generate_state(1)[0])


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
