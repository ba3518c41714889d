"""Causal language modelling: the next token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import paddle
from paddle.nn import functional as F

from ofa_slim.tasks.losses import (
    IGNORED,
    Mask,
    class_labels,
    cross_entropy,
    intersection,
    label_mask,
    soft_cross_entropy,
)
from ofa_slim.tasks.task_kind import Predictions, TaskKind


class LanguageModelling(TaskKind):
    """Logits [batch, length, vocabulary], labels int64 [batch, length].

    Args:
        shift: whether labels are the input ids, so that each is compared with the logits of the position before;
            False where labels are shifted already, as PaddleNLP's GPT expects.
    """

    name = "language modelling"
    main_metric = "perplexity"
    lower_is_better: ClassVar[frozenset[str]] = frozenset({"loss", "perplexity"})

    def __init__(self, shift: bool = True) -> None:
        self.shift = shift

    def loss(self, output: Any, labels: Any, real: Mask = None) -> paddle.Tensor:
        """Mean cross entropy of the next tokens that count."""
        logits = self.answer(output)
        wanted = self.prepared(labels, logits.shape[:2], int(logits.shape[-1]))
        return cross_entropy(self._before(logits), self._after(wanted), self._after(real))

    def prepared(self, labels: Any, shape: Sequence[int], classes: int | None = None) -> paddle.Tensor:
        """A token for each token, int64 [batch, length]; raises `ConfigError` for others."""
        return class_labels(self.name, labels, shape, classes)

    def distance(self, student: Any, teacher: Any, labels: Any, real: Mask, temperature: float) -> paddle.Tensor:
        """Mean soft cross entropy where the next token counts."""
        counted = intersection(self._after(real), label_mask(self._after(labels)))
        return soft_cross_entropy(self._before(student), self._before(teacher), counted, temperature)

    def reduced(self, logits: Any, labels: Any) -> paddle.Tensor:
        """For each next token its log probability and whether it is the likeliest, float32 [batch, tokens, 2].

        The logits of a whole evaluation would be too large: tokens times vocabulary. They may be an array.
        """
        logits = paddle.to_tensor(logits) if isinstance(logits, np.ndarray) else self.answer(logits)
        chances, wanted = self._before(logits).astype("float32"), self._after(labels)
        known = paddle.where(wanted == IGNORED, paddle.zeros_like(wanted), wanted)
        score = -F.cross_entropy(chances, known, reduction="none").reshape(known.shape)
        return paddle.stack([score, (chances.argmax(axis=-1) == known).astype("float32")], axis=-1)

    def metrics(self, predictions: Predictions, labels: Predictions) -> dict[str, float]:
        """Perplexity, and the share of next tokens that are the likeliest, from the results of `reduced`."""
        found, wanted = np.asarray(predictions), self._after(np.asarray(labels))
        counted = wanted != IGNORED
        score, right = found[..., 0][counted], found[..., 1][counted]
        return {"perplexity": float(np.exp(-score.mean(dtype=np.float64))), "accuracy": float(right.mean())}

    def _before(self, logits: paddle.Tensor) -> paddle.Tensor:
        return logits[:, :-1] if self.shift else logits

    def _after(self, values: Any) -> Any:
        return values[:, 1:] if self.shift and values is not None else values
