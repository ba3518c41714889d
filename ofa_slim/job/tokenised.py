"""Rows of text as tokenised examples."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np

from ofa_slim.base.tokens import encode, encode_tokens
from ofa_slim.export.fast_tokenizer import fast_tokenizer
from ofa_slim.export.formats.predict import question_rows
from ofa_slim.job.task import Rows
from ofa_slim.tasks import IGNORED
from ofa_slim.train.batches import Examples

INPUTS = ("input_ids", "token_type_ids")


def accepted_inputs(model: Any, tokenizer: Any) -> tuple[str, ...]:
    """Which of `INPUTS` a model takes and its tokenizer gives; the models find padding from the ids themselves."""
    takes = inspect.signature(model.forward).parameters
    gives = encode(tokenizer, "a", None, 8)
    return tuple(name for name in INPUTS if name in takes and name in gives)


def leading_inputs(model: Any, names: Sequence[str]) -> int:
    """How many of these inputs come first in the model's forward, in this order: those that can be given by place."""
    takes = inspect.signature(model.forward).parameters
    return sum(1 for name, place in zip(names, takes, strict=False) if name == place)


def tokenise(
    tokenizer: Any, rows: Rows, max_length: int, inputs: Sequence[str] = INPUTS, scored: bool = False
) -> Examples:
    """Tokenises with a PaddleNLP tokenizer; longer rows are cut, and contexts of questions become several examples.

    Args:
        tokenizer: the tokenizer.
        rows: texts with labels.
        max_length: longer ones are cut to this many tokens.
        inputs: what the model takes of what the tokenizer gives.
        scored: whether the examples are scored; then parts of a context without its answer do not count. In training
            they say that they have none.
    """
    if rows.second and rows.labels.ndim > 1 and np.issubdtype(rows.labels.dtype, np.integer):
        return _asked(tokenizer, rows, max_length, inputs, IGNORED if scored else 0)
    if rows.labels.dtype == object:
        return _tagged(tokenizer, rows, max_length)
    pairs: Sequence[str | None] = rows.second or [None] * len(rows)
    encoded = [encode(tokenizer, first, second, max_length) for first, second in zip(rows.first, pairs, strict=True)]
    names = [name for name in inputs if encoded and name in encoded[0]]
    arrays = {name: [np.asarray(row[name], dtype=np.int64) for row in encoded] for name in names}
    return Examples(arrays, rows.labels, {"input_ids": int(tokenizer.pad_token_id)})


def _tagged(tokenizer: Any, rows: Rows, max_length: int) -> Examples:
    """Rows of tokens; the first piece of each token has its class, all else is ignored."""
    ids, labels = [], np.empty(len(rows), dtype=object)
    for row, (tokens, classes) in enumerate(zip(rows.first, rows.labels, strict=True)):
        found, starts = encode_tokens(tokenizer, tokens, max_length)
        ids.append(np.asarray(found, dtype=np.int64))
        labels[row] = np.full(len(found), IGNORED, dtype=np.int64)
        labels[row][starts] = classes[: len(starts)]
    return Examples({"input_ids": ids}, labels, {"input_ids": int(tokenizer.pad_token_id)})


def _asked(tokenizer: Any, rows: Rows, max_length: int, inputs: Sequence[str], elsewhere: int) -> Examples:
    """Questions with parts of their contexts; the labels are the first and the last token of the answer, or 0 and 0.

    Args:
        tokenizer: of PaddleNLP, of a kind that `fast_tokenizer` knows.
        rows: questions, contexts, places of answers.
        max_length: tokens of a row.
        inputs: what the model takes.
        elsewhere: the label of a part whose context has the answer in another part.
    """
    fast = fast_tokenizer(tokenizer)
    fast.no_padding()
    arrays: dict[str, list[np.ndarray]] = {name: [] for name in inputs}
    labels = []
    for question, context, (begin, end) in zip(rows.first, rows.second, rows.labels, strict=True):
        for row in question_rows(fast, question, context, max_length):
            for name, values in arrays.items():
                values.append(np.asarray(row[name], dtype=np.int64))
            offsets = np.asarray(row["offsets"])
            inside = np.flatnonzero(row["context"] & (offsets[:, 0] < end) & (offsets[:, 1] > begin))
            whole = len(inside) and offsets[inside[0], 0] <= begin and offsets[inside[-1], 1] >= end
            if begin < 0:
                labels.append((0, 0))
            else:
                labels.append((inside[0], inside[-1]) if whole else (elsewhere, elsewhere))
    return Examples(arrays, np.array(labels, dtype=np.int64), {"input_ids": int(tokenizer.pad_token_id)})


def token_counts(examples: Examples, vocabulary: int) -> np.ndarray:
    """How often each token occurs in the rows, int64 [vocabulary]; padding is not counted."""
    return np.bincount(np.concatenate(list(examples.inputs["input_ids"])), minlength=vocabulary)
