"""`TaskLosses`: the inputs, labels, padding and losses of a batch, for every kind of task."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import paddle
from paddle.nn import functional as F

from ofa_slim.errors import DistillError
from ofa_slim.tasks import TaskKind, padding_mask
from ofa_slim.tasks.losses import masked_mean, mean_square

# ``(student's output, teacher's output, the whole batch with its labels)`` -> scalar
DistillLoss = Callable[[Any, Any, Mapping[str, Any]], paddle.Tensor]
# ``(output, labels)`` -> scalar; the labels are a tuple where there are several.
Criterion = Callable[[Any, Any], paddle.Tensor]


class TaskLosses:
    """The losses of one training. A batch is a dictionary of the model's inputs and the labels.

    Args:
        kind: the kind of task.
        label_names: the batch's entries that are labels; None: those of the kind.
        pad_token_id: the id that pads; None where none does.
        lambda_logit: weight of the distillation of the outputs.
        lambda_task: weight of the task's own loss beside a teacher.
        temperature: divides student's and teacher's logits.
        criterion: the task's loss in place of the kind's own.
        distill_loss: the distillation of the outputs in place of the kind's own.
    """

    def __init__(
        self,
        kind: TaskKind,
        label_names: Sequence[str] | None = None,
        pad_token_id: int | None = None,
        lambda_logit: float = 1.0,
        lambda_task: float = 0.0,
        temperature: float = 1.0,
        criterion: Criterion | None = None,
        distill_loss: DistillLoss | None = None,
    ) -> None:
        self.kind = kind
        self.label_names = tuple(kind.label_names if label_names is None else label_names)
        self._pad_token_id = pad_token_id
        self._lambda_logit = lambda_logit
        self._lambda_task = lambda_task
        self._temperature = temperature
        self._criterion = criterion
        self._distill_loss = distill_loss
        self._padding_mask: paddle.Tensor | None = None  # of the batch that trains now

    def split(self, batch: Mapping[str, Any]) -> tuple[dict[str, Any], Any]:
        """The model's inputs, and the labels: a tensor, a tuple of them, or None where the batch lacks any."""
        inputs = {name: value for name, value in batch.items() if name not in self.label_names}
        labels = [batch.get(name) for name in self.label_names]
        if any(value is None for value in labels):
            return inputs, None
        return inputs, labels[0] if len(labels) == 1 else tuple(labels)

    def prepared(self, batch: Mapping[str, Any], classes: int | None = None) -> dict[str, Any]:
        """A batch with its labels as the kind of task takes them; see `TaskKind.prepared`.

        Those of a criterion of the user's own stay as they are.
        """
        inputs, labels = self.split(batch)
        ids = next((value for value in inputs.values() if isinstance(value, paddle.Tensor)), None)
        if self._criterion is not None or labels is None or ids is None:
            return dict(batch)
        found = self.kind.prepared(labels, ids.shape, classes)
        several = dict(zip(self.label_names, found if len(self.label_names) > 1 else (found,), strict=True))
        return {name: several.get(name, value) for name, value in batch.items()}

    def padding_mask(self, inputs: Mapping[str, Any]) -> paddle.Tensor | None:
        """Which positions are not padding; see `ofa_slim.tasks.padding_mask`."""
        return padding_mask(inputs, self._pad_token_id)

    def task_loss(self, output: Any, labels: Any, real: paddle.Tensor | None = None) -> paddle.Tensor:
        """The task's own loss: the criterion's, or the kind's."""
        if self._criterion is not None:
            return self._criterion(output, labels)
        return self.kind.loss(output, labels, real)

    def loss_of(self, batch: Mapping[str, Any]) -> tuple[dict[str, Any], Callable[..., paddle.Tensor]]:
        """The inputs of a batch and its loss without the hidden layers', as `OFA.train_step` takes them.

        Raises: DistillError, when the loss is computed, where it needs labels that the batch lacks.
        """
        inputs, labels = self.split(batch)
        real = self._padding_mask = self.padding_mask(inputs)

        def task(output: Any) -> paddle.Tensor:
            if labels is None:
                raise DistillError(
                    f"the task's own loss needs labels ({', '.join(self.label_names)}), but a batch has only "
                    f"{', '.join(batch)}"
                )
            return self.task_loss(output, labels, real)

        def distillation(student: Any, teacher: Any) -> paddle.Tensor:
            if self._distill_loss is not None:
                return self._distill_loss(student, teacher, batch)
            return self.kind.distill(student, teacher, labels, real, self._temperature)

        def loss(student: Any, *teacher: Any) -> paddle.Tensor:
            if not teacher:  # there is no teacher, or this sub-network is the teacher
                return task(student)
            parts = []
            if self._lambda_logit:
                parts.append(distillation(student, *teacher) * self._lambda_logit)
            if self._lambda_task:
                parts.append(task(student) * self._lambda_task)
            return paddle.add_n(parts) if parts else paddle.zeros([])

        return inputs, loss

    def hidden_distance(self, student: paddle.Tensor, teacher: paddle.Tensor) -> paddle.Tensor:
        """Mean squared error of a hidden layer [batch, length, features] over the positions that are not padding.

        Raises: DistillError for unequal shapes.
        """
        if student.shape != teacher.shape:
            raise DistillError(
                f"a mapped layer's output is {list(student.shape)} in the student, {list(teacher.shape)} in the "
                "teacher; hidden layers can be matched where both have the same hidden size (mapped_layers=['none'])"
            )
        real = self._padding_mask
        if real is None or list(student.shape[:2]) != list(real.shape):
            return mean_square(student, teacher)
        errors = F.mse_loss(student.astype("float32"), teacher.astype("float32"), reduction="none")
        return masked_mean(errors.mean(axis=-1), real)
