"""Any number of classes for each row."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
from paddle.nn import functional as F

from ofa_slim.errors import ConfigError
from ofa_slim.tasks.losses import Mask
from ofa_slim.tasks.task_kind import Predictions, TaskKind


class MultiLabelClassification(TaskKind):
    """Logits [batch, classes], labels of 0 and 1, of any number type, [batch, classes].

    A class is predicted where its logit is above 0, a probability above one half.
    """

    name = "multi-label classification"
    main_metric = "micro_f1"

    def loss(self, output: Any, labels: Any, real: Mask = None) -> paddle.Tensor:
        """Mean binary cross entropy over rows and classes.

        Raises: ConfigError for labels of another shape than the logits.
        """
        logits = self.answer(output).astype("float32")
        if list(labels.shape) != list(logits.shape):
            raise ConfigError(
                f"{self.name}: labels of shape {list(labels.shape)}, expected {list(logits.shape)}: "
                "0 or 1 for every class"
            )
        return F.binary_cross_entropy_with_logits(logits, labels.astype("float32"))

    def distance(self, student: Any, teacher: Any, labels: Any, real: Mask, temperature: float) -> paddle.Tensor:
        """Mean binary cross entropy to the teacher's probabilities; all rows count."""
        wanted = F.sigmoid(teacher.astype("float32").detach() / temperature)
        logits = student.astype("float32") / temperature
        return F.binary_cross_entropy_with_logits(logits, wanted) * temperature**2

    def metrics(self, predictions: Predictions, labels: Predictions) -> dict[str, float]:
        """F1 over all decisions and as the mean over classes, and the share of rows that are right in every class."""
        from sklearn.metrics import accuracy_score, f1_score

        found, wanted = np.asarray(predictions) > 0, np.asarray(labels) > 0.5
        return {
            "micro_f1": float(f1_score(wanted, found, average="micro", zero_division=0)),
            "macro_f1": float(f1_score(wanted, found, average="macro", zero_division=0)),
            "accuracy": float(accuracy_score(wanted, found)),
        }
