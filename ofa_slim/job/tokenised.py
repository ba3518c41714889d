"""Rows of text as tokenised examples."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np

from ofa_slim.base.tokens import encode, encode_tokens
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


def tokenise(tokenizer: Any, rows: Rows, max_length: int, inputs: Sequence[str] = INPUTS) -> Examples:
    """Tokenises with a PaddleNLP tokenizer; longer rows are cut.

    Args:
        tokenizer: the tokenizer.
        rows: texts with labels.
        max_length: longer ones are cut to this many tokens.
        inputs: what the model takes of what the tokenizer gives.
    """
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


def token_counts(examples: Examples, vocabulary: int) -> np.ndarray:
    """How often each token occurs in the rows, int64 [vocabulary]; padding is not counted."""
    return np.bincount(np.concatenate(list(examples.inputs["input_ids"])), minlength=vocabulary)
