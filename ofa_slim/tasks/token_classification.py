"""One of several classes for each token: named entities, slots, parts of speech."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import paddle

from ofa_slim.errors import ConfigError
from ofa_slim.tasks import base
from ofa_slim.tasks.base import TaskKind
from ofa_slim.tasks.metrics import accuracy


class TokenClassification(TaskKind):
    """Logits [batch, length, classes], labels int64 [batch, length].

    Args:
        tags: the name of each class in a scheme of entities, such as ``["O", "B-PER", "I-PER"]``; with them precision,
            recall and F1 are those of whole entities, without them only tokens are counted.

    Raises: ConfigError for tags none of which is that of an entity.
    """

    name = "token classification"

    def __init__(self, tags: Sequence[str] = ()) -> None:
        self.tags = tuple(tags)
        if self.tags and not any(is_entity(tag) for tag in self.tags):
            raise ConfigError(f"tags {list(self.tags)[:4]}: none is the tag of an entity, such as 'B-PER'")
        self.main_metric = "f1" if self.tags else "accuracy"

    def loss(self, output: Any, labels: Any, real: paddle.Tensor | None = None) -> paddle.Tensor:
        """Mean cross entropy over the labelled tokens."""
        return base.cross_entropy(self.answer(output), labels, real)

    def distill(
        self,
        student: Any,
        teacher: Any,
        labels: Any = None,
        real: paddle.Tensor | None = None,
        temperature: float = 1.0,
    ) -> paddle.Tensor:
        """Mean soft cross entropy over the labelled tokens, or over all real ones without labels."""
        logits, answer = self.answer(student), self.answer(teacher)
        base.same_shape(self.name, logits, answer)
        return base.soft_cross_entropy(logits, answer, base.both(real, base.labelled(labels)), temperature)

    def metrics(self, predictions: base.Predictions, labels: base.Predictions) -> dict[str, float]:
        """Accuracy of the tokens, and with `tags` precision, recall and F1 of the entities."""
        classes, wanted = np.asarray(predictions).argmax(axis=-1), np.asarray(labels)
        counted = wanted != base.IGNORED
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
    """Whether a tag says where in an entity a token is: ``B-PER`` and its like."""
    return len(tag) > 2 and tag[0] in "BIESLU" and tag[1] == "-"
