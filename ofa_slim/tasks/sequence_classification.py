"""One of several classes for each row: a sentence or a pair of sentences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import paddle

from ofa_slim.errors import ConfigError, nearest
from ofa_slim.tasks.losses import IGNORED, Mask, class_labels, cross_entropy, described, label_mask, soft_cross_entropy
from ofa_slim.tasks.metrics import METRICS
from ofa_slim.tasks.task_kind import Predictions, TaskKind


class SequenceClassification(TaskKind):
    """Logits [batch, classes], labels int64 [batch].

    Args:
        metric_names: of `ofa_slim.tasks.metrics`; the first ranks models.

    Raises: ConfigError for an unknown name, or none.
    """

    name = "sequence classification"

    def __init__(self, metric_names: Sequence[str] = ("accuracy",)) -> None:
        self.metric_names = known_metrics(metric_names)
        self.main_metric = self.metric_names[0]

    def loss(self, output: Any, labels: Any, real: Mask = None) -> paddle.Tensor:
        """Mean cross entropy."""
        logits = self.answer(output)
        return cross_entropy(logits, self.prepared(labels, logits.shape, int(logits.shape[-1])))

    def prepared(self, labels: Any, shape: Sequence[int], classes: int | None = None) -> paddle.Tensor:
        """One class for each row, int64 [batch]; raises `ConfigError` for others."""
        if labels.is_floating_point() or labels.size != shape[0]:
            raise ConfigError(
                f"{self.name}: labels are {described(labels)}, not one whole number for each row; several "
                "labels for each row need task=MultiLabelClassification(), numbers to predict task=Regression()"
            )
        return class_labels(self.name, labels.reshape([-1]), shape[:1], classes)

    def distance(self, student: Any, teacher: Any, labels: Any, real: Mask, temperature: float) -> paddle.Tensor:
        """Mean soft cross entropy over the rows."""
        counted = label_mask(None if labels is None else labels.reshape([-1]))
        return soft_cross_entropy(student, teacher, counted, temperature)

    def metrics(self, predictions: Predictions, labels: Predictions) -> dict[str, float]:
        """The metrics of the most likely classes."""
        classes = np.asarray(predictions).argmax(axis=-1)
        wanted = np.asarray(labels).reshape(-1)
        counted = counted_labels(self.name, wanted)
        return {name: METRICS[name](wanted[counted], classes[counted]) for name in self.metric_names}


def counted_labels(kind: str, labels: np.ndarray) -> np.ndarray:
    """Which labels count, bool of their shape; raises `ConfigError` where none does."""
    counted: np.ndarray = labels != IGNORED
    if not counted.any():
        raise ConfigError(f"{kind}: no label counts, as all are {IGNORED}, so there is nothing to score")
    return counted


def known_metrics(names: Sequence[str]) -> tuple[str, ...]:
    """Names of metrics of rows; raises `ConfigError` for others."""
    if isinstance(names, str) or not names:
        raise ConfigError(f"metric_names {names!r} is not a list with at least one of {', '.join(METRICS)}")
    for name in names:
        if name not in METRICS:
            raise ConfigError(f"metric {name!r} is not one of {', '.join(METRICS)}{nearest(str(name), METRICS)}")
    return tuple(names)
