"""A number for each row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import paddle
from paddle.nn import functional as F

from ofa_slim.tasks import base
from ofa_slim.tasks.base import TaskKind
from ofa_slim.tasks.metrics import METRICS
from ofa_slim.tasks.sequence_classification import known_metrics


class Regression(TaskKind):
    """Outputs [batch, 1], labels float [batch].

    Args:
        metric_names: of `ofa_slim.tasks.metrics`; the first says which model is best.

    Raises: ConfigError for a name that is none of them, or no name at all.
    """

    name = "regression"
    softens = False

    def __init__(self, metric_names: Sequence[str] = ("pearson", "spearman")) -> None:
        self.metric_names = known_metrics(metric_names)
        self.main_metric = self.metric_names[0]

    def loss(self, output: Any, labels: Any, real: paddle.Tensor | None = None) -> paddle.Tensor:
        """Mean squared error."""
        return F.mse_loss(self._numbers(output), labels.astype("float32").reshape([-1]))

    def distill(
        self,
        student: Any,
        teacher: Any,
        labels: Any = None,
        real: paddle.Tensor | None = None,
        temperature: float = 1.0,
    ) -> paddle.Tensor:
        """Mean squared error to the teacher's numbers; there is no label that does not count, and no temperature."""
        return F.mse_loss(self._numbers(student), self._numbers(teacher).detach())

    def metrics(self, predictions: base.Predictions, labels: base.Predictions) -> dict[str, float]:
        """The metrics of the numbers."""
        found, wanted = np.asarray(predictions).reshape(-1), np.asarray(labels).reshape(-1)
        return {name: METRICS[name](wanted, found) for name in self.metric_names}

    def _numbers(self, output: Any) -> paddle.Tensor:
        return self.answer(output).astype("float32").squeeze(-1)
