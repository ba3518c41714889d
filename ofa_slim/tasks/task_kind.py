"""`TaskKind`: the loss, the distillation and the metrics of a kind of task, and which positions count."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import paddle

from ofa_slim.errors import ConfigError
from ofa_slim.tasks.losses import Mask, same_shape

Predictions = np.ndarray | tuple[np.ndarray, ...]


class TaskKind(ABC):
    """A kind of task.

    Attributes:
        name: its name in messages.
        label_names: the batch's entries that are labels.
        outputs: how many of the model's outputs are its answer.
        softens: whether its outputs are logits, which a temperature softens.
        main_metric: the name in `metrics` of the metric that ranks models; higher is better unless it is in
            `lower_is_better`.
    """

    name: ClassVar[str]
    label_names: ClassVar[tuple[str, ...]] = ("labels",)
    outputs: ClassVar[int] = 1
    softens: ClassVar[bool] = True
    main_metric: str
    lower_is_better: ClassVar[frozenset[str]] = frozenset({"loss"})

    @abstractmethod
    def loss(self, output: Any, labels: Any, real: Mask = None) -> paddle.Tensor:
        """The task's own loss.

        Args:
            output: the model's output, called without labels.
            labels: a tensor, or a tuple of tensors for several `label_names`.
            real: bool [batch, length], False on padding; None where nothing is padded.

        Returns: scalar, float32.
        """

    def prepared(self, labels: Any, shape: Sequence[int], classes: int | None = None) -> Any:
        """Labels as `loss` and PaddleNLP's own losses take them.

        Args:
            labels: as in `loss`.
            shape: ``[batch, length]`` of the token ids.
            classes: how many the model has; None where that is not known.

        Raises: ConfigError for labels of another type or shape, or of a class that the model does not have.
        """
        return labels

    def distill(
        self,
        student: Any,
        teacher: Any,
        labels: Any = None,
        real: Mask = None,
        temperature: float = 1.0,
    ) -> paddle.Tensor:
        """The distance of a student's output to the teacher's, over the positions that count.

        Args:
            student: the student's output.
            teacher: the teacher's output.
            labels: only mark positions to leave out (`IGNORED`); None: all count.
            real: as in `loss`.
            temperature: divides both logits; ignored where the outputs are not logits.

        Returns: scalar, float32; no gradient reaches the teacher.

        Raises: ConfigError where the two outputs differ in shape.
        """
        answers = self.answer(student), self.answer(teacher)
        for one, other in zip(*([answer] if self.outputs == 1 else answer for answer in answers), strict=True):
            same_shape(self.name, one, other)
        return self.distance(*answers, labels, real, temperature)

    def distance(self, student: Any, teacher: Any, labels: Any, real: Mask, temperature: float) -> paddle.Tensor:
        """The distance of two answers (see `answer`) of one shape; the other arguments are those of `distill`."""
        raise NotImplementedError

    @abstractmethod
    def metrics(self, predictions: Predictions, labels: Predictions) -> dict[str, float]:
        """The metrics of all rows.

        Args:
            predictions: the outputs, or the results of `reduced`; short rows are padded with `IGNORED`.
            labels: the same.
        """

    def reduced(self, logits: Any, labels: Any) -> Any:
        """What `metrics` needs of a batch's outputs: all of them, unless they are too large to keep."""
        return logits

    def answer(self, output: Any) -> Any:
        """The part of a model's output that answers the task: a tensor, or a tuple of `outputs` tensors.

        Raises: ConfigError for an output with fewer tensors.
        """
        if isinstance(output, paddle.Tensor):
            found: tuple[Any, ...] = (output,)
        elif isinstance(output, Mapping):
            found = tuple(value for key, value in output.items() if key != "loss")
        else:
            found = tuple(output)
        found = found[: self.outputs]
        if len(found) < self.outputs or not all(isinstance(value, paddle.Tensor) for value in found):
            raise ConfigError(
                f"{self.name}: the model returned {_described(output)}; {self.outputs} tensors are needed"
            )
        return found[0] if self.outputs == 1 else found


def padding_mask(inputs: Mapping[str, Any], pad_token_id: int | None) -> paddle.Tensor | None:
    """Which positions of a batch are not padding.

    Args:
        inputs: the model's inputs; a two-dimensional ``attention_mask`` is read, else ``input_ids``.
        pad_token_id: the id of padding; None without one.

    Returns: bool [batch, length], or None where neither input tells.
    """
    mask = inputs.get("attention_mask")
    if isinstance(mask, paddle.Tensor) and mask.ndim == 2:
        # A mask that is added to scores is 0 where it counts and negative elsewhere. No value is copied to the host.
        added = (mask < 0).any()
        return paddle.logical_and(mask >= 0, paddle.logical_or(mask != 0, added))
    ids = inputs.get("input_ids")
    if isinstance(ids, paddle.Tensor) and ids.ndim == 2 and pad_token_id is not None:
        return ids != pad_token_id
    return None


def _described(output: Any) -> str:
    kind = f"a {type(output).__name__}"
    if not isinstance(output, (tuple, list)):
        return kind
    return f"{kind} of {', '.join(type(value).__name__ for value in output) or 'nothing'}"
