"""Fine-tuning a model, training a supernet, and scoring either."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Any

import numpy as np
import paddle
from paddle import nn

from ofa_slim.base.modes import eval_mode
from ofa_slim.tasks import TaskKind
from ofa_slim.train import parallel
from ofa_slim.train.batches import LABELS, Batch, Batches, Examples, inputs_of, joined
from ofa_slim.train.builders import Strategy
from ofa_slim.train.feeds import ResumableSampler
from ofa_slim.train.loop import RuntimeOptions, Schedule, train
from ofa_slim.train.task_losses import TaskLosses

PLAIN = RuntimeOptions()


def finetune(
    model: nn.Layer,
    examples: Examples,
    kind: TaskKind,
    schedule: Schedule,
    rng: np.random.Generator,
    options: RuntimeOptions = PLAIN,
    title: str = "fine-tuning",
) -> None:
    """Trains a model in place; it is left in eval mode."""

    def step(batch: Batch, scale: float, scaler: paddle.amp.GradScaler | None) -> list[tuple[str, paddle.Tensor]]:
        loss = kind.loss(model(**inputs_of(batch)), batch[LABELS])
        scaled = loss * scale
        (scaled if scaler is None else scaler.scale(scaled)).backward()
        return [("the model", loss.detach())]

    train(model, step, _feed(examples, schedule, rng), schedule, title, options)


def train_supernet(
    ofa: Any,
    examples: Examples,
    kind: TaskKind,
    schedule: Schedule,
    rng: np.random.Generator,
    strategy: Strategy,
    lambda_logit: float = 1.0,
    options: RuntimeOptions = PLAIN,
    title: str = "supernet",
) -> None:
    """Trains the sub-networks of a strategy on each batch, learning from the teacher alone (DynaBERT).

    Args:
        ofa: an `OFA` with a teacher.
        examples: their labels only say which of them count.
        kind: says how outputs are compared.
        schedule: how long and how fast.
        rng: orders the batches; the strategy draws from a generator of its own, spawned from it.
        strategy: gives the sub-networks of a batch.
        lambda_logit: weight of the soft labels.
        options: what surrounds the training.
        title: of the progress bar and the scalars.

    Source: Hou et al. 2020, arXiv:2004.04037.
    """
    losses = TaskLosses(kind, (LABELS,), lambda_logit=lambda_logit)
    (draws,) = rng.spawn(1)

    def step(batch: Batch, scale: float, scaler: paddle.amp.GradScaler | None) -> list[tuple[object, paddle.Tensor]]:
        configs = strategy(draws)
        return list(zip(configs, ofa.train_step(*losses.loss_of(batch), configs, scale, scaler), strict=True))

    train(ofa, step, _feed(examples, schedule, rng), schedule, title, options, draws)


def _feed(examples: Examples, schedule: Schedule, rng: np.random.Generator) -> ResumableSampler:
    return ResumableSampler(Batches(examples, schedule.batch_size), schedule.epochs, schedule.accumulate, rng)


def evaluate(model: nn.Layer, batches: Iterable[Batch], kind: TaskKind) -> dict[str, float]:
    """The task's metrics, over the batches that all processes share; the model's mode is put back."""
    return kind.metrics(*predicted(model, batches, kind))


@paddle.no_grad()
def predicted(model: nn.Layer, batches: Iterable[Batch], kind: TaskKind) -> tuple[np.ndarray, np.ndarray]:
    """Answers and labels of all rows, from the batches that all processes share, in eval mode.

    Several outputs are along the last axis: [rows, length, 2] for start and end. Of outputs that are too large to keep
    it is what `TaskKind.reduced` makes of them.
    """
    rank, ranks = parallel.position()
    own = islice(batches, rank, None, ranks)
    with eval_mode(model):
        scored = [
            (answer_of(kind, kind.reduced(model(**inputs_of(batch)), batch[LABELS])), batch[LABELS].numpy())
            for batch in own
        ]
    empty = [(np.empty(0), np.empty(0))]  # of a process without a batch
    columns = zip(*(scored or empty), strict=True)
    outputs, labels = (parallel.gather_rows(joined(column)) for column in columns)
    return outputs, labels


def answer_of(kind: TaskKind, output: Any) -> np.ndarray:
    """The part of a model's output that answers the task, several outputs along the last axis."""
    found = kind.answer(output)
    return np.asarray(found if isinstance(found, paddle.Tensor) else paddle.stack(found, axis=-1))
