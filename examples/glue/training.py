"""Fine-tuning, supernet training and scoring. Everything is an argument; nothing is read from a recipe."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import nn
from tqdm import tqdm

from glue.data import Batch, Batches, Examples
from glue.tasks import Task
from ofa_slim import OFA, Convert, DistillConfig, dynabert_config, supernet
from ofa_slim.importance import compute_neuron_head_importance

Scalars = Callable[[str, float, int], None]
Loss = Callable[[paddle.Tensor, paddle.Tensor], paddle.Tensor]

READ_EVERY = 10  # steps between two looks at the loss


class DivergedError(Exception):
    """A training whose loss is no number any more."""


def no_scalars(name: str, value: float, step: int) -> None:
    """Drops a scalar."""


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train.

    Attributes:
        epochs: passes over the examples.
        batch_size: rows per step.
        learning_rate: the highest; it rises linearly from 0 and falls linearly to 0.
        warmup: share of the steps over which it rises.
        weight_decay: AdamW's, on matrices only.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    warmup: float = 0.1
    weight_decay: float = 0.01


def finetune(
    model: nn.Layer,
    examples: Examples,
    task: Task,
    schedule: Schedule,
    rng: np.random.Generator,
    scalars: Scalars = no_scalars,
) -> None:
    """Trains a classifier in place; it is left in eval mode."""
    loss_of = task_loss(task)

    def step(batch: Batch) -> paddle.Tensor:
        input_ids, token_type_ids, labels = batch
        loss = loss_of(model(input_ids, token_type_ids), labels)
        loss.backward()
        return loss.detach()

    _run(model, step, examples, schedule, rng, "fine-tuning", scalars)


def build_supernet(
    model: nn.Layer, widths: Sequence[float], teacher: nn.Layer | None = None, lambda_rep: float = 0.0
) -> OFA:
    """Turns a BERT classifier into a supernet, in place.

    Args:
        model: the classifier, its heads and neurons in order of importance.
        widths: shares of heads and neurons.
        teacher: a classifier of the same shape; None to run sub-networks without one.
        lambda_rep: weight of the hidden states' mean squared errors.
    """
    Convert(supernet(expand_ratio=sorted(widths, reverse=True))).convert(model)
    if teacher is None:
        return OFA(model)
    layers = [f"bert.encoder.layers.{layer}" for layer in range(model.config.num_hidden_layers)]
    config = DistillConfig(
        lambda_distill=lambda_rep, teacher_model=teacher, mapping_layers=["bert.embeddings", *layers]
    )
    return OFA(model, distill_config=config)


def train_supernet(
    ofa: OFA,
    examples: Examples,
    task: Task,
    schedule: Schedule,
    rng: np.random.Generator,
    *,
    widths: Sequence[float],
    depth_mults: Sequence[float] = (1.0,),
    lambda_logit: float = 1.0,
    scalars: Scalars = no_scalars,
    title: str = "supernet",
) -> None:
    """Trains every width at every depth on each batch, learning from the teacher alone (DynaBERT).

    Args:
        ofa: a supernet with a teacher; see `build_supernet`.
        examples: their labels are not used.
        task: says how logits are compared.
        schedule: how long and how fast.
        rng: orders the batches.
        widths: shares of heads and neurons.
        depth_mults: shares of layers.
        lambda_logit: weight of the soft labels.
        scalars: receives loss and learning rate.
        title: of the progress bar and the scalars.

    Source: Hou et al. 2020, arXiv:2004.04037.
    """
    configs = [dynabert_config(ofa, width, depth) for depth in depth_mults for width in widths]
    logit_loss = F.mse_loss if task.regression else soft_cross_entropy

    def step(batch: Batch) -> paddle.Tensor:
        input_ids, token_type_ids, _ = batch
        total = paddle.zeros([])
        for config in configs:
            ofa.set_net_config(config)
            student, teacher = ofa(input_ids, token_type_ids)
            loss = lambda_logit * logit_loss(student, teacher.detach()) + ofa.calc_distill_loss()
            loss.backward()
            total = total + loss.detach()
        return total / len(configs)

    try:
        _run(ofa, step, examples, schedule, rng, title, scalars)
    finally:
        ofa.set_net_config(None)


def importance(model: nn.Layer, batches: Iterable[Batch], task: Task) -> tuple[paddle.Tensor, list[paddle.Tensor]]:
    """Scores every head, float32 [layers, heads], and every neuron, float32 [neurons] per layer."""
    config = model.config
    return compute_neuron_head_importance(
        task.name,
        model,
        batches,
        config.num_hidden_layers,
        config.num_attention_heads,
        loss_fct=task_loss(task),
        intermediate_name="linear1",
        output_name="linear2",
    )


@paddle.no_grad()
def evaluate(model: nn.Layer, batches: Iterable[Batch], task: Task) -> dict[str, float]:
    """The task's metrics; the model's mode is left as it was."""
    training = model.training
    model.eval()
    try:
        scored = [(model(ids, types).numpy(), labels.numpy()) for ids, types, labels in batches]
    finally:
        if training:
            model.train()
    logits, labels = (np.concatenate(parts) for parts in zip(*scored, strict=True))
    return task.score(logits, labels)


def task_loss(task: Task) -> Loss:
    """Cross entropy, or mean squared error for regression, of logits [batch, classes] to labels [batch]."""
    if task.regression:
        return lambda logits, labels: F.mse_loss(logits.squeeze(-1), labels)
    return lambda logits, labels: F.cross_entropy(logits, labels)


def soft_cross_entropy(student: paddle.Tensor, teacher: paddle.Tensor) -> paddle.Tensor:
    """Cross entropy of the student's distribution to the teacher's; logits [batch, classes] → scalar."""
    return F.cross_entropy(student, F.softmax(teacher, axis=-1), soft_label=True)


def linear_schedule(step: int, steps: int, warmup: float) -> float:
    """The share of the highest learning rate at a step: up linearly over the warm-up, then down to 0."""
    rising = warmup * steps
    if step < rising:
        return (step + 1) / (rising + 1)
    return max(0.0, (steps - step) / max(1.0, steps - rising))


def _run(
    model: nn.Layer,
    step: Callable[[Batch], paddle.Tensor],
    examples: Examples,
    schedule: Schedule,
    rng: np.random.Generator,
    title: str,
    scalars: Scalars,
) -> None:
    """The loop: `step` adds gradients, this applies them and shows progress.

    Raises: DivergedError where the loss is no number any more.
    """
    batches = Batches(examples, schedule.batch_size, rng)
    steps = schedule.epochs * len(batches)
    if not steps:
        return
    rate, optimizer = _optimizer(model, schedule, steps)
    model.train()
    bar = tqdm(total=steps, desc=title, unit="batch", dynamic_ncols=True)
    recent: list[paddle.Tensor] = []
    with bar:
        for number, batch in enumerate(_epochs(batches, schedule.epochs)):
            recent.append(step(batch))
            optimizer.step()
            optimizer.clear_grad()
            rate.step()
            bar.update()
            if len(recent) < READ_EVERY and number + 1 < steps:
                continue
            # Reading a loss waits for the device, so it is not done in every step.
            loss = float(paddle.stack(recent).mean())
            recent.clear()
            if not np.isfinite(loss):
                raise DivergedError(
                    f"{title}: the loss became {loss} by step {number + 1}; a lower learning rate may help"
                )
            scalars(f"{title}/learning_rate", optimizer.get_lr(), number)
            scalars(f"{title}/loss", loss, number)
            bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
    model.eval()


def _epochs(batches: Batches, epochs: int) -> Iterator[Batch]:
    """The batches of all epochs."""
    for _ in range(epochs):
        yield from batches


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
