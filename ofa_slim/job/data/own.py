"""A task on files of one's own: its rows, with labels that are found in the training file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ofa_slim.errors import DataError
from ofa_slim.job.data import cells
from ofa_slim.job.data.keys import UNLABELLED, DataKeys
from ofa_slim.job.data.tables import Table, read_table
from ofa_slim.job.task import Rows, Task
from ofa_slim.search import stratified
from ofa_slim.tasks.token_classification import is_entity
from ofa_slim.train.batches import apart

METRICS = {
    "classification": ("accuracy", "macro_f1"),
    "pairs": ("accuracy", "macro_f1"),
    "multi_label": ("micro_f1", "macro_f1", "accuracy"),
    "regression": ("pearson", "spearman"),
    "tokens": ("f1", "precision", "recall", "accuracy"),
    "question_answering": ("f1", "exact"),
    "spans": ("f1", "precision", "recall"),
    "language_modelling": ("accuracy", "perplexity"),
}
FORMS = {"pairs": "classification", "question_answering": "answers", "language_modelling": "next"}
ASKED = {
    "question_answering": ("question", "context", "answers"),
    "spans": ("prompt", "content", "result_list"),
}
"""The usual names of the columns with a question, the text that answers it, and its answers."""
PAIR = "text_pair"  # the usual name of the column with the second text


def own_task(name: str, keys: DataKeys, known: Sequence[str] | None = None) -> Task:
    """The task of a recipe with files of one's own; reads and checks all of its rows.

    Args:
        name: what kind of task it is, one of `keys.OWN_TASKS`.
        keys: the files and columns.
        known: the labels of a model that is fine-tuned already, in its order; None: those of the training file.

    Raises: DataError that names the file, the line and the column of what is wrong.
    """
    reader = _Reader(name, keys)
    train = read_table(Path(keys.train), keys.delimiter)
    texts = reader.texts(train)
    labels = reader.labels(train, keys.labels or known)
    rows = Rows(*texts, reader.values(train, labels))
    if keys.dev is None:
        rows, dev = _split(rows, keys.dev_share, keys.train)
    else:
        table = read_table(Path(keys.dev), keys.delimiter)
        dev = Rows(*reader.texts(table), reader.values(table, labels))
    return Task(
        name,
        2 if name in ASKED else len(labels) or 1,
        ("accuracy",) if name == "tokens" and not any(map(is_entity, labels)) else METRICS[name],
        lambda _: (rows, {"dev": dev}),
        labels,
        pairs=reader.pair is not None,
        form=FORMS.get(name, name),
        files=lambda _: own_files(keys),
    )


def own_files(keys: DataKeys) -> dict[str, Path]:
    """The data files by their key in the recipe."""
    return {key: Path(file) for key, file in (("train", keys.train), ("dev", keys.dev)) if file is not None}


@dataclass(frozen=True)
class _Reader:
    """Reads tables of a kind of task."""

    name: str
    keys: DataKeys

    @property
    def asked(self) -> tuple[str, str, str]:
        """The columns with the question, the context and the answers."""
        keys, usual = self.keys, ASKED[self.name]
        return keys.question or usual[0], keys.context or usual[1], keys.answers or usual[2]

    @property
    def pair(self) -> str | None:
        """The column with the second text."""
        return PAIR if self.name == "pairs" and self.keys.pair is None else self.keys.pair

    def labels(self, table: Table, known: Sequence[str] | None) -> tuple[str, ...]:
        """The labels in the order of the model's outputs; none where its outputs are not named labels."""
        keys = self.keys
        if self.name in UNLABELLED:
            return ()
        if known is not None:
            found = list(known)
        elif self.name == "multi_label" and len(keys.label) > 1:
            found = keys.label
        else:
            labels = {label for row in self._label_sets(table) for label in row}
            found = sorted(labels, key=lambda label: (label != "O", label))
        if len(set(found)) != len(found):
            raise DataError(f"data.labels: {found} names a label twice")
        least = 1 if self.name == "multi_label" else 2
        if len(found) < least:
            column = keys.tags if self.name == "tokens" else keys.label[0]
            raise DataError(
                f"{table.path}, column {column!r}: {len(found)} different labels ({', '.join(found)}); {self.name} "
                f"needs at least {least}"
            )
        return tuple(found)

    def texts(self, table: Table) -> tuple[list[Any], list[str]]:
        """The texts of a table, or its lists of tokens; and the second texts of pairs, or the contexts of questions."""
        if self.name in ASKED:
            question, context, _ = self.asked
            return cells.texts(table, question, "question"), cells.texts(table, context, "context")
        if self.name == "tokens":
            return cells.words(table, self.keys.tokens, "tokens"), []
        first = cells.texts(table, self.keys.text, "text")
        return first, [] if self.pair is None else cells.texts(table, self.pair, "pair")

    def values(self, table: Table, labels: Sequence[str]) -> np.ndarray:
        """The labels of a table, as in `Rows`."""
        if self.name == "question_answering":
            return cells.answers(table, self.asked[2], self.texts(table)[1])
        if self.name == "spans":
            return apart(cells.spans(table, self.asked[2], self.texts(table)[1]))
        if self.name == "language_modelling":
            return np.zeros(len(table), dtype=np.int64)
        if self.name == "tokens":
            return self._tags(table, labels)
        column = self.keys.label[0]
        if self.name == "regression":
            return np.array(cells.numbers(table, column), dtype=np.float32)
        if self.name == "multi_label" and len(self.keys.label) > 1:
            return np.array([cells.flags(table, one) for one in self.keys.label], dtype=np.float32).T.copy()
        found = cells.classes(table, column, self._label_sets(table), labels)
        if self.name != "multi_label":
            return np.concatenate(found)
        values = np.zeros((len(table), len(labels)), dtype=np.float32)
        for row, numbers in enumerate(found):
            values[row, numbers] = 1.0
        return values

    def _tags(self, table: Table, labels: Sequence[str]) -> np.ndarray:
        """The classes of the tokens of each row, an array of arrays."""
        tokens, tags = self.texts(table)[0], self._label_sets(table)
        for row, (one, other) in enumerate(zip(tokens, tags, strict=True)):
            if len(one) != len(other):
                raise DataError(f"{table.place(row, self.keys.tags)}: {len(other)} tags for {len(one)} tokens")
        return apart(cells.classes(table, self.keys.tags, tags, labels))

    def _label_sets(self, table: Table) -> list[list[str]]:
        if self.name == "tokens":
            return cells.words(table, self.keys.tags, "tags")
        if self.name == "multi_label":
            return cells.label_sets(table, self.keys.label[0], self.keys.separator)
        return [[label] for label in cells.labels(table, self.keys.label[0])]


def _split(rows: Rows, share: float, file: str) -> tuple[Rows, Rows]:
    """Splits a fixed share off; every class has its share, and one with a single row stays in the first part."""
    groups = strata(rows.labels)
    counts = np.bincount(groups)
    several = np.flatnonzero(counts[groups] > 1)
    count = round(share * len(rows))
    if not 0 < count < len(several):
        raise DataError(f"{file}: {len(rows)} rows, of which data.dev_share ({share:g}) leaves {count} to score on")
    chosen = several[stratified(groups[several], count)]
    return rows.taken(np.setdiff1d(np.arange(len(rows)), chosen)), rows.taken(chosen)


def strata(labels: np.ndarray) -> np.ndarray:
    """The group of each row, int64 [rows]: its class, set of classes, or tenth of the values; tags have one group.

    Questions have two: with an answer and without; so have rows of spans.
    """
    if labels.dtype == object:
        spans = len(labels) and labels[0].ndim == 2
        return np.array([spans and row.sum() > 0 for row in labels], dtype=np.int64)
    if labels.ndim > 1 and np.issubdtype(labels.dtype, np.integer):
        return (labels[:, 1] > 0).astype(np.int64)
    if labels.ndim > 1:
        return np.unique(labels, axis=0, return_inverse=True)[1].reshape(-1)
    if not np.issubdtype(labels.dtype, np.integer):
        return np.digitize(labels, np.quantile(labels, np.linspace(0.1, 0.9, 9)))
    return labels
