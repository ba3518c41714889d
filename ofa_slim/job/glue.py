"""The tasks: where their text is, what their labels mean, and how they are scored."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ofa_slim.errors import DataError
from ofa_slim.job.task import SPLIT_SEED, Rows, Task

LOG = logging.getLogger(__name__)

MOVIE_FILE = "movieReviewSnippets_GroundTruth.txt"
MOVIE_TRAIN_SHARE = 0.8
MOVIE_LEAST_SCORE = 0.5


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

    def files(self, data_dir: Path) -> dict[str, Path]:
        """The files, by the name of their set."""
        return {name: data_dir / self.folder / file for name, file in {"train": "train.tsv", **self.dev}.items()}

    def _rows(self, path: Path) -> Rows:
        lines = read_tsv(path)
        header = next(lines, None) if isinstance(self.columns[0], str) else []
        if header is None:
            raise DataError(f"{path} is empty")
        columns = self._positions(header, path) if isinstance(self.columns[0], str) else self.columns
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


def movie_files(data_dir: Path) -> dict[str, Path]:
    """The one file of the movie-review snippets."""
    return {"snippets": data_dir / MOVIE_FILE}


def _glue(name: str, files: GlueFiles, metrics: tuple[str, ...], labels: tuple[str, ...], pairs: bool = True) -> Task:
    form = "classification" if files.labels else "regression"
    return Task(name, len(files.labels) or 1, metrics, files.read, labels, pairs, form, files.files)


TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task("movie-polarity", 2, ("accuracy",), read_movie_polarity, POLARITY, files=movie_files),
        _glue("sst-2", SST2, ("accuracy",), POLARITY, pairs=False),
        _glue("cola", COLA, ("matthews",), ("unacceptable", "acceptable"), pairs=False),
        _glue("mrpc", MRPC, ("f1", "accuracy"), ALIKE),
        _glue("sts-b", STSB, ("pearson", "spearman"), ()),
        _glue("qnli", QNLI, ("accuracy",), ENTAILMENT),
        _glue("rte", RTE, ("accuracy",), ENTAILMENT),
        _glue("qqp", QQP, ("f1", "accuracy"), ALIKE),
        _glue("mnli", MNLI, ("accuracy",), ("contradiction", "entailment", "neutral")),
    )
}
