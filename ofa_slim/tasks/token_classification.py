"""One of several classes for each token: named entities, slots, parts of speech."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import paddle

from ofa_slim.errors import ConfigError
from ofa_slim.tasks.losses import (
    Mask,
    class_labels,
    cross_entropy,
    intersection,
    label_mask,
    soft_cross_entropy,
)
from ofa_slim.tasks.metrics import accuracy
from ofa_slim.tasks.sequence_classification import counted_labels
from ofa_slim.tasks.task_kind import Predictions, TaskKind


class TokenClassification(TaskKind):
    """Logits [batch, length, classes], labels int64 [batch, length].

    Args:
        tags: the tag of each class, such as ``["O", "B-PER", "I-PER"]``; with tags the metrics include precision,
            recall and F1 of whole entities, without them only the accuracy of tokens.

    Raises: ConfigError where no tag is that of an entity.
    """

    name = "token classification"

    def __init__(self, tags: Sequence[str] = ()) -> None:
        self.tags = tuple(tags)
        if self.tags and not any(is_entity(tag) for tag in self.tags):
            raise ConfigError(f"tags {list(self.tags)[:4]}: none is the tag of an entity, such as 'B-PER'")
        self.main_metric = "f1" if self.tags else "accuracy"

    def loss(self, output: Any, labels: Any, real: Mask = None) -> paddle.Tensor:
        """Mean cross entropy over the labelled tokens."""
        logits = self.answer(output)
        return cross_entropy(logits, self.prepared(labels, logits.shape[:2], int(logits.shape[-1])), real)

    def prepared(self, labels: Any, shape: Sequence[int], classes: int | None = None) -> paddle.Tensor:
        """A class for each token, int64 [batch, length]; raises `ConfigError` for others."""
        return class_labels(self.name, labels, shape, classes)

    def distance(self, student: Any, teacher: Any, labels: Any, real: Mask, temperature: float) -> paddle.Tensor:
        """Mean soft cross entropy over the labelled tokens, or over all real ones without labels."""
        return soft_cross_entropy(student, teacher, intersection(real, label_mask(labels)), temperature)

    def metrics(self, predictions: Predictions, labels: Predictions) -> dict[str, float]:
        """Accuracy of the tokens, and with `tags` precision, recall and F1 of the entities."""
        classes, wanted = np.asarray(predictions).argmax(axis=-1), np.asarray(labels)
        counted = counted_labels(self.name, wanted)
        found = {"accuracy": accuracy(wanted[counted], classes[counted])}
        if self.tags:
            from seqeval.metrics import f1_score, precision_score, recall_score  # it imports scikit-learn

            names = np.array(self.tags, dtype=object)
            gold = [list(names[row[kept]]) for row, kept in zip(wanted, counted, strict=True)]
            said = [list(names[row[kept]]) for row, kept in zip(classes, counted, strict=True)]
            for name, score in (("precision", precision_score), ("recall", recall_score), ("f1", f1_score)):
                found[name] = float(score(gold, said, zero_division=0))
        return found


def is_entity(tag: str) -> bool:
    """Whether a tag is that of a token in an entity, such as ``B-PER``."""
    return len(tag) > 2 and tag[0] in "BIESLU" and tag[1] == "-"
