"""A number for each row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import paddle
from paddle.nn import functional as F

from ofa_slim.tasks.losses import Mask, number_labels
from ofa_slim.tasks.metrics import METRICS
from ofa_slim.tasks.sequence_classification import known_metrics
from ofa_slim.tasks.task_kind import Predictions, TaskKind


class Regression(TaskKind):
    """Outputs [batch, 1], labels float [batch].

    Args:
        metric_names: of `ofa_slim.tasks.metrics`; the first ranks models.

    Raises: ConfigError for an unknown name, or none.
    """

    name = "regression"
    softens = False

    def __init__(self, metric_names: Sequence[str] = ("pearson", "spearman")) -> None:
        self.metric_names = known_metrics(metric_names)
        self.main_metric = self.metric_names[0]

    def loss(self, output: Any, labels: Any, real: Mask = None) -> paddle.Tensor:
        """Mean squared error."""
        numbers = _numbers(self.answer(output))
        return F.mse_loss(numbers, self.prepared(labels, numbers.shape).squeeze(-1))

    def prepared(self, labels: Any, shape: Sequence[int], classes: int | None = None) -> paddle.Tensor:
        """One number for each row, float32 [batch, 1] as the outputs are; raises `ConfigError` for others."""
        one_each = labels.size == shape[0]
        return number_labels(self.name, labels.reshape([-1, 1]) if one_each else labels, [shape[0], 1])

    def distance(self, student: Any, teacher: Any, labels: Any, real: Mask, temperature: float) -> paddle.Tensor:
        """Mean squared error to the teacher's numbers; all rows count, and there is no temperature."""
        return F.mse_loss(_numbers(student), _numbers(teacher).detach())

    def metrics(self, predictions: Predictions, labels: Predictions) -> dict[str, float]:
        """The metrics of the numbers."""
        found, wanted = np.asarray(predictions).reshape(-1), np.asarray(labels).reshape(-1)
        return {name: METRICS[name](wanted, found) for name in self.metric_names}


def _numbers(answer: paddle.Tensor) -> paddle.Tensor:
    return answer.astype("float32").squeeze(-1)
