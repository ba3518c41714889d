"""What a kind of task is: its loss, how outputs are distilled, its metrics, and which positions count."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import paddle
from paddle.nn import functional as F

from ofa_slim.errors import ConfigError

IGNORED = -100
"""The label of what does not count: padding, special tokens, rows without a label."""

# Logits that no softmax gives any weight, and whose products with 0 are still 0 in float32.
_NOWHERE = -1e9

Predictions = np.ndarray | tuple[np.ndarray, ...]


class TaskKind(ABC):
    """A kind of task.

    Attributes:
        name: what it is called.
        label_names: the batch's entries that hold labels.
        outputs: how many of the model's outputs are its answer.
        softens: whether a temperature means anything to its outputs.
        main_metric: the name in `metrics` of the one that says which model is best; the higher the better unless it is
            in `lower_is_better`.
    """

    name: ClassVar[str]
    label_names: ClassVar[tuple[str, ...]] = ("labels",)
    outputs: ClassVar[int] = 1
    softens: ClassVar[bool] = True
    main_metric: str
    lower_is_better: ClassVar[frozenset[str]] = frozenset({"loss"})

    @abstractmethod
    def loss(self, output: Any, labels: Any, real: paddle.Tensor | None = None) -> paddle.Tensor:
        """The task's own loss.

        Args:
            output: what the model returned without labels.
            labels: a tensor, or a tuple of them where there are several `label_names`.
            real: bool [batch, length], False on padding; None where nothing is padded.

        Returns: scalar, float32.
        """

    @abstractmethod
    def distill(
        self,
        student: Any,
        teacher: Any,
        labels: Any = None,
        real: paddle.Tensor | None = None,
        temperature: float = 1.0,
    ) -> paddle.Tensor:
        """How far a student's output is from the teacher's, where it counts.

        Args:
            student: what the student returned.
            teacher: what the teacher returned.
            labels: only say what does not count (`IGNORED`); None: all of it does.
            real: as in `loss`.
            temperature: divides both logits.

        Returns: scalar, float32; no gradient flows into the teacher.
        """

    @abstractmethod
    def metrics(self, predictions: Predictions, labels: Predictions) -> dict[str, float]:
        """The metrics of all rows.

        Args:
            predictions: the outputs, or what `reduced` made of them; rows of unequal length end in `IGNORED`.
            labels: the same.
        """

    def reduced(self, logits: Any, labels: Any) -> Any:
        """What `metrics` needs to know of a batch's outputs: all of them, unless they are too many to keep."""
        return logits

    def answer(self, output: Any) -> Any:
        """The part of a model's output that answers the task: a tensor, or a tuple of `outputs` tensors.

        Raises: ConfigError for an output without as many tensors.
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
                f"{self.name}: the model returned {_described(output)}; needed are {self.outputs} tensors"
            )
        return found[0] if self.outputs == 1 else found


def padding_mask(inputs: Mapping[str, Any], pad_token_id: int | None) -> paddle.Tensor | None:
    """Which positions of a batch are no padding.

    Args:
        inputs: the model's inputs: a two-dimensional ``attention_mask`` says it, else ``input_ids`` do.
        pad_token_id: the id that pads; None where none does.

    Returns: bool [batch, length], or None where neither says anything.
    """
    mask = inputs.get("attention_mask")
    if isinstance(mask, paddle.Tensor) and mask.ndim == 2:
        # A mask that is added to scores has 0 on what counts and something negative elsewhere. Which of the two it is
        # stays on the device.
        added = (mask < 0).any()
        return paddle.logical_and(mask >= 0, paddle.logical_or(mask != 0, added))
    ids = inputs.get("input_ids")
    if isinstance(ids, paddle.Tensor) and ids.ndim == 2 and pad_token_id is not None:
        return ids != pad_token_id
    return None


def masked_mean(values: paddle.Tensor, counted: paddle.Tensor | None) -> paddle.Tensor:
    """The mean of what counts; 0 where nothing does.

    Args:
        values: float, any shape; not infinite anywhere.
        counted: bool or float, the same shape; None: everything.
    """
    if counted is None:
        return values.mean()
    weights = counted.astype(values.dtype)
    return (values * weights).sum() / weights.sum().clip(min=1.0)


def both(one: paddle.Tensor | None, other: paddle.Tensor | None) -> paddle.Tensor | None:
    """Where both masks are true; None is true everywhere."""
    if one is None or other is None:
        return other if one is None else one
    return paddle.logical_and(one, other)


def labelled(labels: paddle.Tensor | None) -> paddle.Tensor | None:
    """Which labels are not `IGNORED`, bool of the labels' shape."""
    return None if labels is None else labels != IGNORED


def cross_entropy(logits: paddle.Tensor, labels: paddle.Tensor, counted: paddle.Tensor | None = None) -> paddle.Tensor:
    """Mean cross entropy of the labels that count and are not `IGNORED`.

    Args:
        logits: float [..., classes].
        labels: int64 [...].
        counted: bool [...].
    """
    own = labels != IGNORED
    counted = own if counted is None else paddle.logical_and(counted, own)
    known = paddle.where(counted, labels, paddle.zeros_like(labels))
    # Paddle's own mean divides by all labels, ignored ones included, where the ignored index is below 0 (3.3.1).
    loss = F.cross_entropy(logits.astype("float32"), known.unsqueeze(-1), reduction="none").squeeze(-1)
    return masked_mean(loss, counted)


def soft_cross_entropy(
    student: paddle.Tensor,
    teacher: paddle.Tensor,
    counted: paddle.Tensor | None = None,
    temperature: float = 1.0,
) -> paddle.Tensor:
    """Mean cross entropy of the student's distributions to the teacher's.

    Args:
        student: logits [..., classes].
        teacher: logits, the same shape.
        counted: bool [...]; None: all.
        temperature: divides the logits; the result is multiplied by its square, so that gradients keep their size.

    Source: Hinton et al. 2015, arXiv:1503.02531.
    """
    student, teacher = student.astype("float32"), teacher.detach().astype("float32")
    if temperature != 1.0:
        student, teacher = student / temperature, teacher / temperature
    loss = F.cross_entropy(student, F.softmax(teacher, axis=-1), soft_label=True, reduction="none").squeeze(-1)
    mean = masked_mean(loss, counted)
    return mean if temperature == 1.0 else mean * temperature**2


def nowhere(logits: paddle.Tensor, real: paddle.Tensor | None) -> paddle.Tensor:
    """Logits over positions [batch, length] with no weight on padding, float32."""
    logits = logits.astype("float32")
    return logits if real is None else paddle.where(real, logits, paddle.full_like(logits, _NOWHERE))


def same_shape(kind: str, student: paddle.Tensor, teacher: paddle.Tensor) -> None:
    """Raises `ConfigError` where student and teacher answer in different shapes."""
    if list(student.shape) != list(teacher.shape):
        raise ConfigError(f"{kind}: the student answers {list(student.shape)}, the teacher {list(teacher.shape)}")


def _described(output: Any) -> str:
    if isinstance(output, (tuple, list)):
        return f"a {type(output).__name__} of {', '.join(type(value).__name__ for value in output) or 'nothing'}"
    return f"a {type(output).__name__}"
