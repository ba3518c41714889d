"""A task with its rows of text: where they are, what their labels mean, and how they are scored."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ofa_slim.errors import DataError
from ofa_slim.tasks import (
    LanguageModelling,
    MultiLabelClassification,
    QuestionAnswering,
    Regression,
    SequenceClassification,
    SpanScoring,
    TaskKind,
    TokenClassification,
)

SPLIT_SEED = 0
HEADS = {"tokens": "TokenClassification", "answers": "QuestionAnswering", "spans": "Spans", "next": "CausalLM"}


@dataclass(frozen=True)
class Rows:
    """Text with labels.

    Attributes:
        first: the sentences or questions; for tags of tokens each is a list of tokens.
        second: the sentences they are paired with, or the contexts of questions; else empty.
        labels: int64 [rows], float32 [rows] for regression, float32 [rows, classes] for several labels per row, or an
            array of rows of tags, int64 [tokens] each; for questions int64 [rows, 2], the place in the context at
            which the answer begins and the one after its end, -1 without an answer; for spans an array of rows of
            such places, int64 [spans, 2] each; nothing but zeros where the next token is the label.
    """

    first: list[Any]
    second: list[str]
    labels: np.ndarray

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.first)

    def limited(self, rows: int | None) -> Rows:
        """At most this many rows; the same ones at each call, whatever the recipe's seed."""
        if rows is None or rows >= len(self):
            return self
        return self.taken(np.random.default_rng(SPLIT_SEED).permutation(len(self))[:rows])

    def taken(self, rows: np.ndarray) -> Rows:
        """Some of the rows, in the order given."""
        second = [self.second[row] for row in rows] if self.second else []
        return Rows([self.first[row] for row in rows], second, self.labels[rows])

    def without(self, count: int) -> tuple[Rows, Rows]:
        """All other rows, and the last `count` of the permutation that `limited` takes from; both in order."""
        if not 0 < count < len(self):
            raise DataError(f"search_rows is {count}, but there are {len(self)} training rows")
        held_out = np.random.default_rng(SPLIT_SEED).permutation(len(self))[-count:]
        return self.taken(np.setdiff1d(np.arange(len(self)), held_out)), self.taken(np.sort(held_out))


@dataclass(frozen=True)
class Task:
    """One task.

    Attributes:
        name: as in the recipe.
        num_classes: 1 for regression.
        metrics: names of its metrics; the first is the one that is plotted.
        read: data folder → training rows and named sets of rows to score on; the first is the main one.
        labels: the name of each class; empty for regression.
        pairs: whether a row is two sentences.
        form: what the labels are: "classification", "multi_label", "regression", "tokens", "answers", "spans" or
            "next".
        files: data folder → the files that it reads, by a name for each.
    """

    name: str
    num_classes: int
    metrics: tuple[str, ...]
    read: Callable[[Path], tuple[Rows, dict[str, Rows]]]
    labels: tuple[str, ...] = ()
    pairs: bool = False
    form: str = "classification"
    files: Callable[[Path], Mapping[str, Path]] = lambda folder: {}

    @property
    def regression(self) -> bool:
        """Whether the task predicts a number."""
        return self.form == "regression"

    @property
    def head(self) -> str:
        """The head of a model for it, one of `ofa_slim.integrations.paddlenlp.HEADS`."""
        return HEADS.get(self.form, "SequenceClassification")

    @property
    def kind(self) -> TaskKind:
        """Its losses and metrics."""
        if self.form == "answers":
            return QuestionAnswering()
        if self.form == "spans":
            return SpanScoring()
        if self.form == "next":
            return LanguageModelling()
        if self.form == "tokens":
            return TokenClassification(self.labels if len(self.metrics) > 1 else ())
        if self.form == "multi_label":
            return MultiLabelClassification()
        return Regression(self.metrics) if self.regression else SequenceClassification(self.metrics)

    def score(self, logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """All metrics, from what `train.fitting.predicted` gives; the first one ranks."""
        found = self.kind.metrics(logits, labels)
        return {name: found[name] for name in self.metrics}
