"""Fine-tuning, supernet training and scoring. Everything is an argument; nothing is read from a recipe."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import islice

import numpy as np
import paddle
from paddle import nn

from ofa_slim.job.glue import Task
from ofa_slim.ofa import OFA
from ofa_slim.ordering.scores import compute_neuron_head_importance
from ofa_slim.supernet import Convert, SubnetConfig, supernet
from ofa_slim.supernet.run_config import RunConfig
from ofa_slim.train import parallel
from ofa_slim.train.batches import Batch, Examples
from ofa_slim.train.distill_config import DistillConfig
from ofa_slim.train.loop import RuntimeOptions, Schedule, train
from ofa_slim.train.teacher import TeacherCache

Strategy = Callable[[np.random.Generator], list[SubnetConfig]]


PLAIN = RuntimeOptions()


def finetune(
    model: nn.Layer,
    examples: Examples,
    task: Task,
    schedule: Schedule,
    rng: np.random.Generator,
    around: RuntimeOptions = PLAIN,
    title: str = "fine-tuning",
) -> None:
    """Trains a classifier in place; it is left in eval mode."""
    loss_of = task.kind.loss

    def step(batch: Batch, scale: float, scaler: paddle.amp.GradScaler | None) -> list[tuple[str, paddle.Tensor]]:
        input_ids, token_type_ids, labels = batch
        loss = loss_of(model(input_ids, token_type_ids), labels)
        scaled = loss * scale
        (scaled if scaler is None else scaler.scale(scaled)).backward()
        return [("the model", loss.detach())]

    train(model, step, examples, schedule, rng, title, around)


def build_supernet(
    model: nn.Layer,
    widths: Sequence[float],
    teacher: nn.Layer | None = None,
    lambda_rep: float = 0.0,
    depth_mults: Sequence[float] = (1.0,),
    cache: TeacherCache | None = None,
) -> OFA:
    """Turns a BERT classifier into a supernet, in place.

    Args:
        model: the classifier, its heads and neurons in order of importance.
        widths: shares of heads and neurons.
        teacher: a classifier of the same shape; None to run sub-networks without one.
        lambda_rep: weight of the hidden states' mean squared errors.
        depth_mults: shares of layers that random sub-networks are drawn from.
        cache: keeps the teacher's answers.
    """
    Convert(supernet(expand_ratio=sorted(widths, reverse=True))).convert(model)
    count = model.config.num_hidden_layers
    run = RunConfig(elastic_depth=sorted({max(1, round(share * count)) for share in depth_mults}))
    if teacher is None:
        return OFA(model, run)
    layers = [f"bert.encoder.layers.{layer}" for layer in range(count)]
    config = DistillConfig(
        lambda_distill=lambda_rep,
        teacher_model=teacher,
        mapping_layers=["bert.embeddings", *layers],
        cache_teacher=cache,
    )
    return OFA(model, run, config)


def train_supernet(
    ofa: OFA,
    examples: Examples,
    task: Task,
    schedule: Schedule,
    rng: np.random.Generator,
    strategy: Strategy,
    lambda_logit: float = 1.0,
    around: RuntimeOptions = PLAIN,
    title: str = "supernet",
) -> None:
    """Trains the sub-networks of a strategy on each batch, learning from the teacher alone (DynaBERT).

    Args:
        ofa: a supernet with a teacher; see `build_supernet`.
        examples: their labels are not used.
        task: says how logits are compared.
        schedule: how long and how fast.
        rng: orders the batches; the strategy draws from one of its own, spawned from it.
        strategy: gives the sub-networks of a batch.
        lambda_logit: weight of the soft labels.
        around: what surrounds the training.
        title: of the progress bar and the scalars.

    Source: Hou et al. 2020, arXiv:2004.04037.
    """
    kind = task.kind
    (draws,) = rng.spawn(1)

    def loss_of(student: paddle.Tensor, teacher: paddle.Tensor) -> paddle.Tensor:
        return lambda_logit * kind.distill(student, teacher)

    def step(batch: Batch, scale: float, scaler: paddle.amp.GradScaler | None) -> list[tuple[object, paddle.Tensor]]:
        configs = strategy(draws)
        losses = ofa.train_step(batch[:2], loss_of, configs, scale, scaler)
        return list(zip(configs, losses, strict=True))

    train(ofa, step, examples, schedule, rng, title, around, draws)


def importance(model: nn.Layer, batches: Iterable[Batch], task: Task) -> tuple[paddle.Tensor, list[paddle.Tensor]]:
    """Scores every head, float32 [layers, heads], and every neuron, float32 [neurons] per layer."""
    config = model.config
    return compute_neuron_head_importance(
        task.name,
        model,
        batches,
        config.num_hidden_layers,
        config.num_attention_heads,
        loss_fct=task.kind.loss,
        intermediate_name="linear1",
        output_name="linear2",
    )


def evaluate(model: nn.Layer, batches: Iterable[Batch], task: Task) -> dict[str, float]:
    """The task's metrics, over the batches that all processes share; the model's mode is left as it was."""
    return task.score(*predicted(model, batches))


@paddle.no_grad()
def predicted(model: nn.Layer, batches: Iterable[Batch]) -> tuple[np.ndarray, np.ndarray]:
    """Logits and labels of all rows, from the batches that all processes share, in eval mode."""
    training = model.training
    model.eval()
    ranks = paddle.distributed.get_world_size()
    own = islice(batches, paddle.distributed.get_rank(), None, ranks)
    try:
        scored = [(model(ids, types).numpy(), labels.numpy()) for ids, types, labels in own]
    finally:
        if training:
            model.train()
    empty = [(np.empty(0), np.empty(0))]  # of a process without a batch
    columns = zip(*(scored or empty), strict=True)
    logits, labels = (parallel.gather_rows(np.concatenate(column)) for column in columns)
    return logits, labels
