"""UIE: the probabilities that a span begins, and ends, at each token."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
from paddle.nn import functional as F

from ofa_slim.base.optional import require_paddlenlp
from ofa_slim.tasks.losses import Mask, intersection, label_mask, masked_mean, same_shape
from ofa_slim.tasks.task_kind import Predictions, TaskKind


class SpanScoring(TaskKind):
    """Two outputs, probabilities of start and end [batch, length]; two labels of 0 and 1, the same shape.

    They may also be one, [batch, length, 2].

    Args:
        limit: from this probability a token counts as a start or an end, for the metrics.
    """

    name = "span scoring"
    label_names = ("start_positions", "end_positions")
    outputs = 2
    softens = False
    main_metric = "f1"

    def __init__(self, limit: float = 0.5) -> None:
        self.limit = limit

    def loss(self, output: Any, labels: Any, real: Mask = None) -> paddle.Tensor:
        """Mean binary cross entropy over real, labelled tokens; half of the start and half of the end."""
        return self._halves(self.answer(output), labels, labels, real)

    def distance(self, student: Any, teacher: Any, labels: Any, real: Mask, temperature: float) -> paddle.Tensor:
        """Mean binary cross entropy to the teacher's probabilities; the temperature is ignored."""
        return self._halves(student, teacher, (None, None) if labels is None else labels, real)

    def _halves(self, answers: Any, wanted: Any, labels: Any, real: Mask) -> paddle.Tensor:
        parts = []
        if isinstance(labels, paddle.Tensor):
            labels = labels.unbind(-1)
            wanted = labels if isinstance(wanted, paddle.Tensor) else wanted
        for chance, target, label in zip(answers, wanted, labels, strict=True):
            same_shape(self.name, chance, target)
            counted = intersection(real, label_mask(label))
            # Where it does not count the target may not be a probability, such as the label -100.
            target = target.detach().astype("float32").clip(0.0, 1.0)
            loss = F.binary_cross_entropy(chance.astype("float32"), target, reduction="none")
            parts.append(masked_mean(loss, counted))
        return paddle.add_n(parts) / 2

    def metrics(self, predictions: Predictions, labels: Predictions) -> dict[str, float]:
        """Precision, recall and F1 of the spans, by PaddleNLP's evaluator.

        Starts and ends may also be along the last axis: [rows, length, 2].
        """
        if isinstance(labels, np.ndarray):
            predictions, labels = np.moveaxis(np.asarray(predictions), -1, 0), np.moveaxis(labels, -1, 0)
        require_paddlenlp("the metric of spans")
        from paddlenlp.metrics import SpanEvaluator

        evaluator = SpanEvaluator(limit=self.limit)
        columns = [np.asarray(one) for one in (*predictions, *labels)]
        found = evaluator.compute(columns[0].tolist(), columns[1].tolist(), columns[2], columns[3])
        evaluator.update(*found)
        precision, recall, f1 = evaluator.accumulate()
        return {"precision": float(precision), "recall": float(recall), "f1": float(f1)}
