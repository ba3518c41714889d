"""Rows of text as tokenised examples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ofa_slim.base.tokens import encode
from ofa_slim.job.task import Rows
from ofa_slim.train.batches import Examples

_INPUTS = ("input_ids", "token_type_ids")


def tokenise(tokenizer: Any, rows: Rows, max_length: int) -> Examples:
    """Tokenises with a PaddleNLP tokenizer; longer rows are cut."""
    pairs: Sequence[str | None] = rows.second or [None] * len(rows)
    encoded = [encode(tokenizer, first, second, max_length) for first, second in zip(rows.first, pairs, strict=True)]
    names = [name for name in _INPUTS if encoded and name in encoded[0]]
    inputs = {name: [np.asarray(row[name], dtype=np.int64) for row in encoded] for name in names}
    return Examples(inputs, rows.labels, {"input_ids": int(tokenizer.pad_token_id)})


def token_counts(examples: Examples, vocabulary: int) -> np.ndarray:
    """How often each token occurs in the rows, int64 [vocabulary]; padding is not counted."""
    return np.bincount(np.concatenate(list(examples.inputs["input_ids"])), minlength=vocabulary)
