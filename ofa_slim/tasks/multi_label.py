"""Any number of classes for each row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import paddle
from paddle.nn import functional as F

from ofa_slim.tasks.losses import Mask, number_labels
from ofa_slim.tasks.task_kind import Predictions, TaskKind


class MultiLabelClassification(TaskKind):
    """Logits [batch, classes], labels of 0 and 1, of any number type, [batch, classes].

    A class is predicted where its logit is above 0, a probability above one half.
    """

    name = "multi-label classification"
    main_metric = "micro_f1"

    def loss(self, output: Any, labels: Any, real: Mask = None) -> paddle.Tensor:
        """Mean binary cross entropy over rows and classes.

        Raises: ConfigError for labels of another shape than the logits, or that are not from 0 to 1.
        """
        logits = self.answer(output).astype("float32")
        return F.binary_cross_entropy_with_logits(logits, self.prepared(labels, logits.shape, int(logits.shape[-1])))

    def prepared(self, labels: Any, shape: Sequence[int], classes: int | None = None) -> paddle.Tensor:
        """A number from 0 to 1 for every class of each row, float32 [batch, classes]; `ConfigError` for others."""
        wanted = labels.shape[-1] if classes is None else classes
        return number_labels(self.name, labels, [shape[0], wanted], binary=True)

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
