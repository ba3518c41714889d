"""`pipeline`: text in, labels and scores out, from a written model of any format."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ofa_slim.base.checks import check_whole, checked_path
from ofa_slim.base.foreign import check_tokenizer
from ofa_slim.base.optional import require_paddlenlp
from ofa_slim.base.tokens import encode, encode_tokens, padding_of
from ofa_slim.errors import ExportError
from ofa_slim.export.fast_tokenizer import fast_tokenizer
from ofa_slim.export.formats.opened import CARD_FILE, Opened, read_card
from ofa_slim.export.formats.predict import Encoder, Row, TextModel

Text = str | tuple[str, str] | list[str]
FORMS = ("classification", "multi_label", "tokens", "regression", "answers", "spans", "next")
TWO = {"answers": "a pair of a question and a context", "spans": "a pair of a prompt and a context"}


@dataclass(frozen=True)
class TextTask:
    """The task of a written model; `write_formats` keeps it in ``format.json``.

    Attributes:
        name: of the task.
        labels: the name of each class; empty where the outputs are not classes.
        max_length: longer inputs are cut to this many tokens.
        pairs: whether an input is two texts.
        form: one of `FORMS`: whether an input has one label, any number, one for each token, a number, or is a question
            with a context that holds its answer, or a prompt with a context that holds any number of spans; or whether
            the answer is the token that follows.
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
            texts: strings; pairs of strings for a task on pairs, question and context for ``answers``, prompt and
                context for ``spans``; for tags lists of tokens, or strings with spaces between them. A single string
                or pair counts as a list of one.
            batch_size: texts that the model gets at a time.

        Returns: for each text ``{"label": name, "score": probability}``; for several labels per text
            ``{"labels": [names], "scores": {name: probability}}`` with the names whose probability is above one half;
            ``{"tokens": [texts], "tags": [names]}`` for tags, of the tokens that fit; ``{"answer": text, "start": its
            place in the context, "score": probability}``, an empty text where there is none; ``{"spans": [{"text",
            "start", "end", "score"}]}`` in order of their places; ``{"next": the likeliest token that follows, "score":
            probability, "perplexity": of the text}``; ``{"value": number}`` for regression.

        Raises: ExportError for an input that is not a text, or not a pair for a task on pairs.
        """
        given: Any = [texts] if isinstance(texts, (str, tuple)) else texts
        if isinstance(given, Mapping) or not isinstance(given, Iterable):
            raise ExportError(f"texts is a {type(given).__name__}, not a string or a list of them")
        check_whole(batch_size, "batch_size", 1, ExportError)
        rows = list(given)
        for number, text in enumerate(rows):
            wanted = _wanted(self.task, text)
            if wanted is not None:
                raise ExportError(f"text number {number} is {text!r}, not {wanted}, which {self.task.name} needs")
        model = TextModel(self.model, {**self.model.card, "task": self.task.to_dict()}, self._encoder(), self._padding)
        try:
            return model(rows, batch_size)
        except ValueError as error:
            raise ExportError(f"{self.model.folder}: {error}") from error

    @property
    def _padding(self) -> int:
        return padding_of(self.tokenizer)

    def _encoder(self) -> Callable[[Any], list[Row]]:
        if self.task.form in (*TWO, "next"):
            fast = fast_tokenizer(self.tokenizer)
            fast.no_padding()
            return Encoder(fast, self.task.to_dict(), self._padding)
        return self._tokens

    def _tokens(self, text: Any) -> list[Row]:
        if self.task.form == "tokens":
            words = text.split() if isinstance(text, str) else text
            ids, starts = encode_tokens(self.tokenizer, words, self.task.max_length)
            return [{"input_ids": ids, "words": list(words[: len(starts)]), "starts": starts}]
        first, second = text if self.task.pairs else (text, None)
        return [dict(encode(self.tokenizer, first, second, self.task.max_length))]


def _wanted(task: TextTask, text: Any) -> str | None:
    """What an input of a task is, in words, where this is none."""
    listed = isinstance(text, (tuple, list)) and all(isinstance(part, str) for part in text)
    if task.form == "tokens":
        return None if listed or isinstance(text, str) else "a string or a list of tokens"
    if task.form in TWO:
        return None if listed and len(text) == 2 else TWO[task.form]
    if task.pairs:
        return None if listed and len(text) == 2 else "a pair of strings"
    return None if isinstance(text, str) else "a string"


def pipeline(directory: str | os.PathLike[str]) -> Pipeline:
    """Opens a written text classifier, its tokenizer included.

    Args:
        directory: one format's folder, as a run or `ofa_slim.export.formats.write_formats` (with a tokenizer and a
            task) wrote it.

    Returns: a function of texts: ``pipeline(directory)(["a fine film"])``.

    Raises: ExportError for a folder without a model, its task or its tokenizer.
    """
    folder = checked_path(directory, "directory", ExportError)
    card = read_card(folder)
    task = card.get("task")
    if not isinstance(task, dict):
        raise ExportError(
            f"{folder / CARD_FILE} names no task; give write_formats one (ofa_slim.export.formats.pipeline.TextTask)"
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
