"""Tokenised examples, and batches of rows of similar length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import paddle

from ofa_slim.job.glue import Rows

POOL_BATCHES = 50

Batch = tuple[paddle.Tensor, paddle.Tensor, paddle.Tensor]


@dataclass(frozen=True)
class Examples:
    """Tokenised rows.

    Attributes:
        input_ids: int64 [length] per row.
        token_type_ids: int64 [length] per row.
        labels: int64 [rows], or float32 [rows] for regression.
        pad_id: the token that fills shorter rows of a batch.
    """

    input_ids: Sequence[np.ndarray]
    token_type_ids: Sequence[np.ndarray]
    labels: np.ndarray
    pad_id: int = 0

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.input_ids)

    def take(self, rows: Sequence[int] | np.ndarray) -> Examples:
        """Some of the rows, in the order given."""
        return Examples(
            [self.input_ids[row] for row in rows],
            [self.token_type_ids[row] for row in rows],
            self.labels[np.asarray(rows)],
            self.pad_id,
        )


def token_counts(examples: Examples, vocabulary: int) -> np.ndarray:
    """How often each token stands in some rows, int64 [vocabulary]; padding is in none."""
    return np.bincount(np.concatenate(list(examples.input_ids)), minlength=vocabulary)


def tokenise(tokenizer: Any, rows: Rows, max_length: int) -> Examples:
    """Tokenises with a PaddleNLP tokenizer; longer rows are cut."""
    pairs: Sequence[str | None] = rows.second or [None] * len(rows)
    encoded = [
        tokenizer(first, second, max_length=max_length, truncation="longest_first")
        for first, second in zip(rows.first, pairs, strict=True)
    ]
    return Examples(
        [np.asarray(row["input_ids"], dtype=np.int64) for row in encoded],
        [np.asarray(row["token_type_ids"], dtype=np.int64) for row in encoded],
        rows.labels,
        int(tokenizer.pad_token_id),
    )


def arrays(batch: Batch) -> dict[str, np.ndarray]:
    """A batch's inputs by name, without its labels."""
    return {"input_ids": batch[0].numpy(), "token_type_ids": batch[1].numpy()}


class Batches:
    """Batches of examples; can be gone through many times.

    With a generator each pass is in a new random order, in which rows of similar length still share a batch:
    the rows are shuffled, sorted by length within pools of some 50 batches, and the batches shuffled. Without
    one the rows are sorted by length.
    """

    def __init__(self, examples: Examples, batch_size: int, rng: np.random.Generator | None = None) -> None:
        """Keeps a reference to the examples, copies nothing."""
        self.examples = examples
        self.batch_size = batch_size
        self.rng = rng
        self._lengths = np.array([len(row) for row in examples.input_ids])

    def __len__(self) -> int:
        """The number of batches of one pass."""
        return -(-len(self.examples) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        """Yields input_ids and token_type_ids, int64 [batch, length], and labels [batch]."""
        for rows in self.order(self.rng):
            yield self.batch(rows)

    def order(self, rng: np.random.Generator | None) -> list[np.ndarray]:
        """The rows of each batch of one pass."""
        return batch_rows(self._lengths, self.batch_size, rng)

    def batch(self, rows: np.ndarray, own: slice = slice(None)) -> Batch:
        """A batch of some rows, padded to the longest of them; `own` of them are in it."""
        length = int(self._lengths[rows].max())
        rows = rows[own]
        ids = np.full((len(rows), length), self.examples.pad_id, dtype=np.int64)
        types = np.zeros_like(ids)
        for position, row in enumerate(rows):
            filled = len(self.examples.input_ids[row])
            ids[position, :filled] = self.examples.input_ids[row]
            types[position, :filled] = self.examples.token_type_ids[row]
        return paddle.to_tensor(ids), paddle.to_tensor(types), paddle.to_tensor(self.examples.labels[rows])


def batch_rows(lengths: np.ndarray, batch_size: int, rng: np.random.Generator | None) -> list[np.ndarray]:
    """The rows of each batch; see `Batches`. Every row is in exactly one batch."""
    if rng is None:
        return _cut(np.argsort(lengths, kind="stable"), batch_size)
    order = rng.permutation(len(lengths))
    batches: list[np.ndarray] = []
    for pool in _cut(order, POOL_BATCHES * batch_size):
        batches += _cut(pool[np.argsort(lengths[pool], kind="stable")], batch_size)
    return [batches[position] for position in rng.permutation(len(batches))]


def _cut(rows: np.ndarray, size: int) -> list[np.ndarray]:
    """Consecutive pieces of at most `size` rows."""
    return [rows[start : start + size] for start in range(0, len(rows), size)]
