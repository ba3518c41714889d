"""Extractive question answering: where the answer begins and where it ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import paddle

from ofa_slim.base.optional import require_paddlenlp
from ofa_slim.tasks.losses import Mask, class_labels, cross_entropy, mask_padding, soft_cross_entropy
from ofa_slim.tasks.task_kind import Predictions, TaskKind


class QuestionAnswering(TaskKind):
    """Two outputs, logits of the start and of the end [batch, length]; two labels, int64 [batch], or one [batch, 2].

    A label outside the row does not count.

    Args:
        longest: the most tokens that an answer may have, for the metrics.
    """

    name = "question answering"
    label_names = ("start_positions", "end_positions")
    outputs = 2
    main_metric = "f1"

    def __init__(self, longest: int = 30) -> None:
        self.longest = longest

    def loss(self, output: Any, labels: Any, real: Mask = None) -> paddle.Tensor:
        """Mean cross entropy over positions that are not padding; half of the start and half of the end."""
        parts = []
        answers = self.answer(output)
        labels = self.prepared(labels, answers[0].shape)
        if isinstance(labels, paddle.Tensor):
            labels = labels.unbind(-1)
        for logits, places in zip(answers, labels, strict=True):
            within = paddle.logical_and(places >= 0, places < logits.shape[-1])
            parts.append(cross_entropy(mask_padding(logits, real), places, within))
        return paddle.add_n(parts) / 2

    def prepared(self, labels: Any, shape: Sequence[int], classes: int | None = None) -> Any:
        """The places of start and end for each row, int64 [batch]; raises `ConfigError` for others."""
        if isinstance(labels, paddle.Tensor):
            return class_labels(self.name, labels, [shape[0], 2], None)
        names = (f"{self.name}: {name}" for name in self.label_names)
        return tuple(
            class_labels(name, one.reshape([-1]) if one.size == shape[0] else one, shape[:1], None)
            for name, one in zip(names, labels, strict=True)
        )

    def distance(self, student: Any, teacher: Any, labels: Any, real: Mask, temperature: float) -> paddle.Tensor:
        """Mean soft cross entropy over positions that are not padding; half of the start and half of the end."""
        parts = []
        for logits, target in zip(student, teacher, strict=True):
            masked = mask_padding(logits, real), mask_padding(target, real)
            parts.append(soft_cross_entropy(*masked, temperature=temperature))
        return paddle.add_n(parts) / 2

    def metrics(self, predictions: Predictions, labels: Predictions) -> dict[str, float]:
        """The share of spans that are exactly right, and the mean F1 of their tokens, over rows with an answer.

        Starts and ends may also be along the last axis: [rows, length, 2] and [rows, 2].
        """
        if isinstance(labels, np.ndarray):
            predictions, labels = np.moveaxis(np.asarray(predictions), -1, 0), labels.T
        starts, ends = (np.asarray(one).reshape(-1) for one in labels)
        counted = (starts >= 0) & (ends >= starts)
        exact: list[float] = []
        overlap: list[float] = []
        for row in np.flatnonzero(counted):
            first, last = best_span(predictions[0][row], predictions[1][row], self.longest)
            exact.append(float((first, last) == (starts[row], ends[row])))
            overlap.append(_token_f1(first, last, int(starts[row]), int(ends[row])))
        return {"exact": float(np.mean(exact or [0.0])), "f1": float(np.mean(overlap or [0.0]))}


def best_span(start: np.ndarray, end: np.ndarray, longest: int) -> tuple[int, int]:
    """The first and last token of the likeliest answer of at most `longest` tokens; logits [length]."""
    scores = start[:, None] + end[None, :]
    places = np.arange(len(start))
    span = places[None, :] - places[:, None]
    first, last = np.unravel_index(np.where((span >= 0) & (span < longest), scores, -np.inf).argmax(), scores.shape)
    return int(first), int(last)


def _token_f1(first: int, last: int, start: int, end: int) -> float:
    shared = min(last, end) - max(first, start) + 1
    return 2 * shared / (last - first + 1 + end - start + 1) if shared > 0 else 0.0


def squad_metrics(
    examples: Sequence[Any], features: Sequence[Any], *, unanswerable: bool = False, longest: int = 30
) -> Callable[[Any], dict[str, float]]:
    """A ``compute_metrics`` for PaddleNLP's Trainer that compares the texts of the answers, as SQuAD does.

    Args:
        examples: rows with ``id``, ``context`` and ``answers``.
        features: the rows of the evaluation, in its order, with ``example_id`` and
            ``offset_mapping``; an example may have several.
        unanswerable: whether questions may have no answer (SQuAD 2.0).
        longest: the most tokens that an answer may have.

    Returns: a function from an ``EvalPrediction`` to ``{"exact": ..., "f1": ...}``, shares.
    """
    require_paddlenlp("the metric of SQuAD")
    from paddlenlp.metrics.squad import compute_prediction, squad_evaluate

    rows = _Rows(examples)

    def compute_metrics(prediction: Any) -> dict[str, float]:
        starts, ends = prediction.predictions
        texts, _, no_answer = compute_prediction(
            rows,
            features,
            (list(starts), list(ends)),
            version_2_with_negative=unanswerable,
            max_answer_length=longest,
        )
        found = squad_evaluate(examples=rows, preds=texts, na_probs=no_answer)
        return {"exact": found["exact"] / 100, "f1": found["f1"] / 100}

    return compute_metrics


class _Rows(list[Any]):
    """Rows that can also be indexed by the name of a column, as PaddleNLP does."""

    def __getitem__(self, key: Any) -> Any:
        return [row[key] for row in self] if isinstance(key, str) else super().__getitem__(key)
