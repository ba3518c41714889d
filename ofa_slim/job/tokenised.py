"""Rows of text as tokenised examples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ofa_slim.base.modes import forward_signature
from ofa_slim.base.tokens import encode, encode_tokens, padding_of
from ofa_slim.export.fast_tokenizer import fast_tokenizer
from ofa_slim.export.formats.predict import question_rows
from ofa_slim.job.task import Rows
from ofa_slim.tasks import IGNORED
from ofa_slim.train.batches import Examples, apart

INPUTS = ("input_ids", "token_type_ids")


def accepted_inputs(model: Any, tokenizer: Any) -> tuple[str, ...]:
    """Which of `INPUTS` a model takes and its tokenizer gives; the models find padding from the ids themselves."""
    takes = forward_signature(model).parameters
    gives = encode(tokenizer, "a", None, 8)
    return tuple(name for name in INPUTS if name in takes and name in gives)


def leading_inputs(model: Any, names: Sequence[str]) -> int:
    """How many of these inputs come first in the model's forward, in this order: those that can be given by place."""
    takes = forward_signature(model).parameters
    return sum(1 for name, place in zip(names, takes, strict=False) if name == place)


def tokenise(
    tokenizer: Any,
    rows: Rows,
    max_length: int,
    inputs: Sequence[str] = INPUTS,
    form: str = "classification",
    scored: bool = False,
) -> Examples:
    """Tokenises with a PaddleNLP tokenizer; longer rows are cut, and contexts of questions become several examples.

    Args:
        tokenizer: the tokenizer.
        rows: texts with labels.
        max_length: longer ones are cut to this many tokens.
        inputs: what the model takes of what the tokenizer gives.
        form: what the labels are, as in `Task`.
        scored: whether the examples are scored; then parts of a context without its answer do not count. In training
            they say that they have none.
    """
    if form == "answers":
        return _asked(tokenizer, rows, max_length, inputs, IGNORED if scored else 0)
    if form == "spans":
        return _marked(tokenizer, rows, max_length, inputs)
    if form == "next":
        return _continuous(tokenizer, rows, max_length)
    if form == "tokens":
        return _tagged(tokenizer, rows, max_length)
    pairs: Sequence[str | None] = rows.second or [None] * len(rows)
    encoded = [encode(tokenizer, first, second, max_length) for first, second in zip(rows.first, pairs, strict=True)]
    names = [name for name in inputs if encoded and name in encoded[0]]
    arrays = {name: [np.asarray(row[name], dtype=np.int64) for row in encoded] for name in names}
    return Examples(arrays, rows.labels, {"input_ids": padding_of(tokenizer)})


def _tagged(tokenizer: Any, rows: Rows, max_length: int) -> Examples:
    """Rows of tokens; the first piece of each token has its class, all else is ignored."""
    ids, labels = [], np.empty(len(rows), dtype=object)
    for row, (tokens, classes) in enumerate(zip(rows.first, rows.labels, strict=True)):
        found, starts = encode_tokens(tokenizer, tokens, max_length)
        ids.append(np.asarray(found, dtype=np.int64))
        labels[row] = np.full(len(found), IGNORED, dtype=np.int64)
        labels[row][starts] = classes[: len(starts)]
    return Examples({"input_ids": ids}, labels, {"input_ids": padding_of(tokenizer)})


def _asked(tokenizer: Any, rows: Rows, max_length: int, inputs: Sequence[str], elsewhere: int) -> Examples:
    """Questions with parts of their contexts; the labels are the first and the last token of the answer, or 0 and 0.

    Args:
        tokenizer: of PaddleNLP, of a kind that `fast_tokenizer` knows.
        rows: questions, contexts, places of answers.
        max_length: tokens of a row.
        inputs: what the model takes.
        elsewhere: the label of a part whose context has the answer in another part.
    """
    arrays: dict[str, list[np.ndarray]] = {name: [] for name in inputs}
    labels = []
    for part, place in _parts(tokenizer, rows, max_length, arrays):
        tokens = _tokens_of(part, *place)
        labels.append((0, 0) if place[0] < 0 else tokens or (elsewhere, elsewhere))
    return Examples(arrays, np.array(labels, dtype=np.int64), {"input_ids": padding_of(tokenizer)})


def _marked(tokenizer: Any, rows: Rows, max_length: int, inputs: Sequence[str]) -> Examples:
    """Prompts with parts of their contexts; the labels of each token are whether a span begins, and ends, there.

    A span that a part has not as a whole is not marked in it.
    """
    arrays: dict[str, list[np.ndarray]] = {name: [] for name in inputs}
    marks = []
    for part, places in _parts(tokenizer, rows, max_length, arrays):
        mark = np.zeros((len(part["input_ids"]), 2), dtype=np.int64)
        for begin, end in places:
            if tokens := _tokens_of(part, begin, end):
                mark[tokens[0], 0] = mark[tokens[1], 1] = 1
        marks.append(mark)
    return Examples(arrays, apart(marks), {"input_ids": padding_of(tokenizer)})


def _parts(
    tokenizer: Any, rows: Rows, max_length: int, arrays: Mapping[str, list[np.ndarray]]
) -> Iterator[tuple[Mapping[str, Any], Any]]:
    """Every part of a context with the labels of its row; the model's inputs are put into `arrays`."""
    fast = fast_tokenizer(tokenizer)
    fast.no_padding()
    for question, context, label in zip(rows.first, rows.second, rows.labels, strict=True):
        for part in question_rows(fast, question, context, max_length):
            for name, values in arrays.items():
                values.append(np.asarray(part[name], dtype=np.int64))
            yield part, label


def _tokens_of(part: Mapping[str, Any], begin: int, end: int) -> tuple[int, int] | None:
    """The first and the last token of a place in the context; None where the part has not all of it."""
    offsets = np.asarray(part["offsets"])
    inside = np.flatnonzero(part["context"] & (offsets[:, 0] < end) & (offsets[:, 1] > begin))
    if not len(inside) or offsets[inside[0], 0] > begin or offsets[inside[-1], 1] < end:
        return None
    return int(inside[0]), int(inside[-1])


def _continuous(tokenizer: Any, rows: Rows, max_length: int) -> Examples:
    """All texts one after the other, each with the token that ends a text, in pieces; the labels are the ids."""
    fast = fast_tokenizer(tokenizer)
    fast.no_padding()
    end = [] if tokenizer.eos_token_id is None else [int(tokenizer.eos_token_id)]
    ids = [one for text in rows.first for one in [*fast.encode(text, add_special_tokens=False).ids, *end]]
    pieces = [np.array(ids[start : start + max_length], dtype=np.int64) for start in range(0, len(ids), max_length)]
    if len(pieces) > 1 and len(pieces[-1]) == 1:
        pieces.pop()  # nothing follows its only token
    return Examples({"input_ids": pieces}, apart(pieces), {"input_ids": padding_of(tokenizer)})


def token_counts(examples: Examples, vocabulary: int) -> np.ndarray:
    """How often each token occurs in the rows, int64 [vocabulary]; padding is not counted."""
    return np.bincount(np.concatenate(list(examples.inputs["input_ids"])), minlength=vocabulary)
