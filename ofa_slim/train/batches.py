"""Tokenised examples, and batches of rows of similar length."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import paddle

from ofa_slim.tasks import IGNORED

POOL_BATCHES = 50
LABELS = "labels"

Batch = dict[str, paddle.Tensor]
"""The model's inputs by name, int64 [batch, length], and ``"labels"`` [batch]."""


@dataclass(frozen=True)
class Examples:
    """Tokenised rows.

    Attributes:
        inputs: the model's inputs by name, int64 [length] per row.
        labels: int64 [rows], float32 [rows] for regression, float32 [rows, classes] for several labels per row; or an
            array of rows, int64 [length] or [length, 2] each, for labels of tokens.
        padding: what fills shorter rows of a batch, by the name of the input; 0 where it is not named.
    """

    inputs: Mapping[str, Sequence[np.ndarray]]
    labels: np.ndarray
    padding: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.labels)

    @property
    def lengths(self) -> np.ndarray:
        """How many tokens each row has, int64 [rows]."""
        return np.array([len(row) for row in next(iter(self.inputs.values()))])

    def take(self, rows: Sequence[int] | np.ndarray) -> Examples:
        """Some of the rows, in the order given."""
        inputs = {name: [values[row] for row in rows] for name, values in self.inputs.items()}
        return Examples(inputs, self.labels[np.asarray(rows)], self.padding)


def inputs_of(batch: Batch) -> Batch:
    """A batch without its labels."""
    return {name: value for name, value in batch.items() if name != LABELS}


def arrays(batch: Batch) -> dict[str, np.ndarray]:
    """A batch's inputs by name as arrays, without its labels."""
    return {name: value.numpy() for name, value in inputs_of(batch).items()}


class Batches:
    """Batches of examples; can be iterated over many times.

    With a generator each pass is in a new random order, in which rows of similar length still share a batch:
    the rows are shuffled, sorted by length within pools of some 50 batches, and the batches shuffled. Without
    one the rows are sorted by length.
    """

    def __init__(self, examples: Examples, batch_size: int, rng: np.random.Generator | None = None) -> None:
        """Keeps a reference to the examples, copies nothing."""
        self.examples = examples
        self.batch_size = batch_size
        self.rng = rng
        self._lengths = examples.lengths

    def __len__(self) -> int:
        """The number of batches of one pass."""
        return -(-len(self.examples) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        """Yields the batches of one pass."""
        for rows in self.order(self.rng):
            yield self.batch(rows)

    def order(self, rng: np.random.Generator | None) -> list[np.ndarray]:
        """The rows of each batch of one pass."""
        return batch_rows(self._lengths, self.batch_size, rng)

    def batch(self, rows: np.ndarray, own: slice = slice(None)) -> Batch:
        """The part `own` of a batch of some rows, padded to the longest of all of them."""
        length = int(self._lengths[rows].max())
        rows = rows[own]
        batch = {}
        for name, values in self.examples.inputs.items():
            filled = np.full((len(rows), length), self.examples.padding.get(name, 0), dtype=np.int64)
            for position, row in enumerate(rows):
                filled[position, : len(values[row])] = values[row]
            batch[name] = paddle.to_tensor(filled)
        labels = self.examples.labels[rows]
        if labels.dtype == object:
            fill = [((0, length - len(row)), *([(0, 0)] * (row.ndim - 1))) for row in labels]
            labels = np.stack([np.pad(row, by, constant_values=IGNORED) for row, by in zip(labels, fill, strict=True)])
        return {**batch, LABELS: paddle.to_tensor(labels)}


def apart(rows: Sequence[np.ndarray]) -> np.ndarray:
    """Arrays of several shapes as an array of them."""
    found = np.empty(len(rows), dtype=object)
    for number, row in enumerate(rows):
        found[number] = row
    return found


def joined(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Arrays of rows one after the other; where their lengths differ, the shorter ones are filled with `IGNORED`."""
    if parts[0].ndim < 2:
        return np.concatenate(parts)
    longest = max(part.shape[1] for part in parts)
    fill = [((0, 0), (0, longest - part.shape[1]), *([(0, 0)] * (part.ndim - 2))) for part in parts]
    return np.concatenate([np.pad(one, by, constant_values=IGNORED) for one, by in zip(parts, fill, strict=True)])


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
