"""`pipeline`: text in, labels and scores out, from a written model of any format."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ofa_slim.base.foreign import check_tokenizer
from ofa_slim.base.optional import require_paddlenlp
from ofa_slim.base.tokens import encode, encode_tokens
from ofa_slim.errors import ExportError
from ofa_slim.export.formats.opened import CARD_FILE, Opened, read_card

Text = str | tuple[str, str] | list[str]
_WORDS, _STARTS = "words", "starts"


# Of inputs that a tokenizer may leave out: what each holds for a text of so many tokens.
_MADE: Mapping[str, Callable[[int], Any]] = {
    "attention_mask": np.ones,
    "position_ids": np.arange,
    "token_type_ids": np.zeros,
}


FORMS = ("classification", "multi_label", "tokens", "regression")


@dataclass(frozen=True)
class TextTask:
    """The task of a written model; `write_formats` keeps it in ``format.json``.

    Attributes:
        name: of the task.
        labels: the name of each class; empty for regression.
        max_length: longer inputs are cut to this many tokens.
        pairs: whether an input is two texts.
        form: one of `FORMS`: whether an input has one label, any number, one for each token, or a number.
    """

    name: str
    labels: tuple[str, ...]
    max_length: int
    pairs: bool = False
    form: str = "classification"

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Pipeline:
    """A written text classifier with its tokenizer; made by `pipeline`.

    Attributes:
        model: the opened model.
        tokenizer: PaddleNLP's.
        task: what its outputs mean.
    """

    model: Opened
    tokenizer: Any
    task: TextTask

    def __call__(self, texts: Text | Sequence[Text], batch_size: int = 32) -> list[dict[str, Any]]:
        """Classifies texts.

        Args:
            texts: strings; pairs of strings for a task on pairs; for tags lists of tokens, or strings with spaces
                between them. A single string or pair counts as a list of one.
            batch_size: texts that the model gets at a time.

        Returns: for each text ``{"label": name, "score": probability}``; for several labels per text
            ``{"labels": [names], "scores": {name: probability}}`` with the names whose probability is above one half;
            ``{"tokens": [texts], "tags": [names]}`` for tags, of the tokens that fit; ``{"value": number}`` for
            regression.

        Raises: ExportError for an input that is not a text, or not a pair for a task on pairs.
        """
        given: Any = [texts] if isinstance(texts, (str, tuple)) else texts
        if isinstance(given, Mapping) or not isinstance(given, Iterable):
            raise ExportError(f"texts is a {type(given).__name__}, not a string or a list of them")
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise ExportError(f"batch_size is {batch_size!r}, not a whole number of at least 1")
        rows = [self._tokens(text, number) for number, text in enumerate(given)]
        order = np.argsort([len(row["input_ids"]) for row in rows], kind="stable")
        found: list[dict[str, Any]] = [{} for _ in rows]
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            for row, answer in zip(chosen, self._answers([rows[row] for row in chosen]), strict=True):
                found[row] = answer
        return found

    def _tokens(self, text: Any, number: int) -> Any:
        if self.task.form == "tokens":
            return self._words(text, number)
        pair = isinstance(text, (tuple, list)) and len(text) == 2 and all(isinstance(part, str) for part in text)
        if not (pair if self.task.pairs else isinstance(text, str)):
            wanted = "a pair of strings" if self.task.pairs else "a string"
            raise ExportError(f"text number {number} is {text!r}, not {wanted}, which {self.task.name} needs")
        parts = text if self.task.pairs else (text,)
        first, *second = parts
        return encode(self.tokenizer, first, second[0] if second else None, self.task.max_length)

    def _words(self, text: Any, number: int) -> dict[str, Any]:
        words = text.split() if isinstance(text, str) else text
        if not isinstance(words, (list, tuple)) or not all(isinstance(word, str) for word in words):
            raise ExportError(f"text number {number} is {text!r}, not a string or a list of tokens")
        ids, starts = encode_tokens(self.tokenizer, words, self.task.max_length)
        return {"input_ids": ids, _WORDS: list(words[: len(starts)]), _STARTS: starts}

    def _filled(self, name: str, rows: Sequence[Any]) -> np.ndarray:
        """One of the model's inputs, int64 [rows, length]; what the tokenizer does not give is made from the ids."""
        longest = max(len(row["input_ids"]) for row in rows)
        filled = np.full((len(rows), longest), self.tokenizer.pad_token_id if name == "input_ids" else 0, np.int64)
        for place, row in enumerate(rows):
            count = len(row["input_ids"])
            if name in row:
                filled[place, :count] = row[name]
            elif name in _MADE:
                filled[place, :count] = _MADE[name](count)
            else:
                raise ExportError(f"the model needs an input {name!r}, which its tokenizer does not give")
        return filled

    def _answers(self, rows: Sequence[Any]) -> list[dict[str, Any]]:
        inputs = {name: self._filled(name, rows) for name in self.model.card["inputs"]}
        logits = np.asarray(self.model(inputs)[0], np.float64)
        if not self.task.labels:
            return [{"value": float(value)} for value in logits.reshape(-1)]
        labels = self.task.labels
        if logits.shape[-1] != len(labels):
            raise ExportError(
                f"{self.model.folder}: the model has {logits.shape[-1]} classes, and its task {len(labels)} labels"
            )
        if self.task.form == "tokens":
            best = logits.argmax(-1)
            return [
                {"tokens": row[_WORDS], "tags": [labels[one] for one in classes[row[_STARTS]]]}
                for row, classes in zip(rows, best, strict=True)
            ]
        if self.task.form == "multi_label":
            scores = [dict(zip(labels, map(float, row), strict=True)) for row in 1 / (1 + np.exp(-logits))]
            return [{"labels": [name for name in row if row[name] > 0.5], "scores": row} for row in scores]
        chances = np.exp(logits - logits.max(-1, keepdims=True))
        chances /= chances.sum(-1, keepdims=True)
        best = chances.argmax(-1)
        return [{"label": labels[k], "score": float(row[k])} for k, row in zip(best, chances, strict=True)]


def pipeline(directory: str | os.PathLike[str]) -> Pipeline:
    """Opens a written text classifier, its tokenizer included.

    Args:
        directory: one format's folder, as a run or `ofa_slim.export.formats.write_formats` (with a tokenizer and a
            task) wrote it.

    Returns: a function of texts: ``pipeline(directory)(["a fine film"])``.

    Raises: ExportError for a folder without a model, its task or its tokenizer.
    """
    folder = Path(directory)
    card = read_card(folder)
    task = card.get("task")
    if not isinstance(task, dict):
        raise ExportError(
            f"{folder / CARD_FILE} names no task; give write_formats one (ofa_slim.export.pipeline.TextTask)"
        )
    try:
        form = task.get("form", "classification")
        known = TextTask(task["name"], tuple(task["labels"]), task["max_length"], task["pairs"], form)
    except (KeyError, TypeError) as error:
        raise ExportError(f"{folder / CARD_FILE} describes no text task: {json.dumps(task)}") from error
    if not (
        isinstance(known.name, str)
        and all(isinstance(label, str) for label in known.labels)
        and type(known.max_length) is int
        and known.max_length >= 1
        and type(known.pairs) is bool
        and known.form in FORMS
    ):
        raise ExportError(f"{folder / CARD_FILE} describes no text task: {json.dumps(task)}")
    if not (folder / "tokenizer_config.json").is_file():
        raise ExportError(f"{folder}: no tokenizer (tokenizer_config.json is not there)")
    check_tokenizer(folder, ExportError)
    require_paddlenlp("the tokenizer of a pipeline")
    from paddlenlp.transformers import AutoTokenizer

    opened = Opened(folder)
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder))
    except Exception as error:  # PaddleNLP raises many types
        raise ExportError(f"{folder}: PaddleNLP cannot read the tokenizer ({error})") from error
    return Pipeline(opened, tokenizer, known)
