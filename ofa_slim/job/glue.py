"""The tasks: where their text is, what their labels mean, and how they are scored."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ofa_slim.errors import OfaSlimError
from ofa_slim.tasks import Regression, SequenceClassification

LOG = logging.getLogger(__name__)

SPLIT_SEED = 0
MOVIE_FILE = "movieReviewSnippets_GroundTruth.txt"
MOVIE_TRAIN_SHARE = 0.8
MOVIE_LEAST_SCORE = 0.5


class DataError(OfaSlimError, ValueError):
    """A data file that is missing, or not in the format that the task needs."""


@dataclass(frozen=True)
class Rows:
    """Text with labels.

    Attributes:
        first: the sentences.
        second: the sentences they are paired with; empty for a task on single sentences.
        labels: int64 [rows], or float32 [rows] for regression.
    """

    first: list[str]
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
    """

    name: str
    num_classes: int
    metrics: tuple[str, ...]
    read: Callable[[Path], tuple[Rows, dict[str, Rows]]]
    labels: tuple[str, ...] = ()
    pairs: bool = False

    @property
    def regression(self) -> bool:
        """Whether the task predicts a number."""
        return self.num_classes == 1

    @property
    def kind(self) -> Regression | SequenceClassification:
        """Its losses and metrics."""
        return Regression(self.metrics) if self.regression else SequenceClassification(self.metrics)

    def score(self, logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """All metrics, from logits [rows, num_classes]."""
        return self.kind.metrics(logits, labels)


@dataclass(frozen=True)
class GlueFiles:
    """How a GLUE task's files are laid out.

    Attributes:
        folder: its name in the GLUE folder.
        columns: names of the text columns and of the label column; numbers where a file has no header.
        labels: label text → class; empty for regression.
        dev: name of a set → file.
    """

    folder: str
    columns: tuple[str | int, ...]
    labels: Mapping[str, int]
    dev: Mapping[str, str] = field(default_factory=lambda: {"dev": "dev.tsv"})

    def read(self, data_dir: Path) -> tuple[Rows, dict[str, Rows]]:
        """Training rows and the sets to score on."""
        folder = data_dir / self.folder
        if not folder.is_dir():
            raise DataError(f"{folder}: no such folder; data_dir has to hold {self.folder}/train.tsv and dev files")
        return self._rows(folder / "train.tsv"), {name: self._rows(folder / file) for name, file in self.dev.items()}

    def _rows(self, path: Path) -> Rows:
        lines = read_tsv(path)
        columns = self._positions(next(lines), path) if isinstance(self.columns[0], str) else self.columns
        needed = max(int(column) for column in columns) + 1
        texts: list[list[str]] = []
        labels: list[float] = []
        short = 0
        for number, cells in enumerate(lines, start=2 if isinstance(self.columns[0], str) else 1):
            if len(cells) < needed:
                short += 1
                continue
            *text, label = (cells[int(column)] for column in columns)
            texts.append(text)
            labels.append(self._label(label, path, number))
        if not texts or short > 0.01 * len(texts):
            raise DataError(f"{path}: {short} of {short + len(texts)} rows have fewer than {needed} columns")
        if short:  # the published QQP has some
            LOG.warning("%s: left out %d rows that have fewer than %d columns", path, short, needed)
        second = [text[1] for text in texts] if len(texts[0]) == 2 else []
        values = np.array(labels, dtype=np.int64 if self.labels else np.float32)
        return Rows([text[0] for text in texts], second, values)

    def _positions(self, header: list[str], path: Path) -> tuple[int, ...]:
        missing = [name for name in self.columns if name not in header]
        if missing:
            raise DataError(f"{path}: no column {missing[0]!r} in the header {header}")
        return tuple(header.index(str(name)) for name in self.columns)

    def _label(self, text: str, path: Path, number: int) -> float:
        if self.labels:
            if text not in self.labels:
                raise DataError(f"{path}, line {number}: label {text!r} is not one of {sorted(self.labels)}")
            return self.labels[text]
        try:
            return float(text)
        except ValueError as error:
            raise DataError(f"{path}, line {number}: label {text!r} is not a number") from error


def read_lines(path: Path) -> Iterator[str]:
    """The lines of a text file, without blank ones."""
    for cells in read_tsv(path):
        line = "\t".join(cells)
        if line.strip():
            yield line


def read_tsv(path: Path) -> Iterator[list[str]]:
    """The cells of each line. Quotes are text, and only a line feed ends a line."""
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    with path.open(encoding="utf-8", newline="\n") as file:
        try:
            for line in file:
                yield line.rstrip("\r\n").split("\t")
        except UnicodeDecodeError as error:
            raise DataError(f"{path}: not UTF-8 text ({error.reason})") from error


def read_movie_polarity(data_dir: Path) -> tuple[Rows, dict[str, Rows]]:
    """Movie-review snippets that people rated clearly positive (class 1) or negative (class 0).

    Only mean ratings of at least 0.5 or at most -0.5 are kept, and of equal snippets only the first, so that no snippet
    is in both sets. The split is fixed: of a permutation with a fixed seed, the first 80 % train and the rest score.
    """
    path = data_dir / MOVIE_FILE
    snippets: dict[str, tuple[str, int]] = {}
    for number, cells in enumerate(read_tsv(path), start=1):
        try:
            _, score, text = cells
            rating = float(score)
        except ValueError as error:
            raise DataError(f"{path}, line {number}: expected an id, a rating and a snippet") from error
        if abs(rating) >= MOVIE_LEAST_SCORE:
            snippets.setdefault(" ".join(text.lower().split()), (text, int(rating > 0)))
    if not snippets:
        raise DataError(f"{path}: the file is empty")
    kept = list(snippets.values())
    order = np.random.default_rng(SPLIT_SEED).permutation(len(kept))
    cut = int(MOVIE_TRAIN_SHARE * len(kept))
    train, dev = (
        Rows([kept[row][0] for row in rows], [], np.array([kept[row][1] for row in rows], dtype=np.int64))
        for rows in (order[:cut], order[cut:])
    )
    return train, {"dev": dev}


BINARY = {"0": 0, "1": 1}
ENTAILED = {"entailment": 0, "not_entailment": 1}
MNLI_LABELS = {"contradiction": 0, "entailment": 1, "neutral": 2}
MNLI_DEV = {"matched": "dev_matched.tsv", "mismatched": "dev_mismatched.tsv"}

SST2 = GlueFiles("SST-2", ("sentence", "label"), BINARY)
COLA = GlueFiles("CoLA", (3, 1), BINARY)
MRPC = GlueFiles("MRPC", ("#1 String", "#2 String", "Quality"), BINARY)
STSB = GlueFiles("STS-B", ("sentence1", "sentence2", "score"), {})
QNLI = GlueFiles("QNLI", ("question", "sentence", "label"), ENTAILED)
RTE = GlueFiles("RTE", ("sentence1", "sentence2", "label"), ENTAILED)
QQP = GlueFiles("QQP", ("question1", "question2", "is_duplicate"), BINARY)
MNLI = GlueFiles("MNLI", ("sentence1", "sentence2", "gold_label"), MNLI_LABELS, MNLI_DEV)

POLARITY = ("negative", "positive")
ALIKE = ("different", "the same")
ENTAILMENT = ("entailment", "not entailment")

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task("movie-polarity", 2, ("accuracy",), read_movie_polarity, POLARITY),
        Task("sst-2", 2, ("accuracy",), SST2.read, POLARITY),
        Task("cola", 2, ("matthews",), COLA.read, ("unacceptable", "acceptable")),
        Task("mrpc", 2, ("f1", "accuracy"), MRPC.read, ALIKE, pairs=True),
        Task("sts-b", 1, ("pearson", "spearman"), STSB.read, pairs=True),
        Task("qnli", 2, ("accuracy",), QNLI.read, ENTAILMENT, pairs=True),
        Task("rte", 2, ("accuracy",), RTE.read, ENTAILMENT, pairs=True),
        Task("qqp", 2, ("f1", "accuracy"), QQP.read, ALIKE, pairs=True),
        Task("mnli", 3, ("accuracy",), MNLI.read, ("contradiction", "entailment", "neutral"), pairs=True),
    )
}
