"""Comparing the outputs of a written model with those that it should have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ofa_slim.base.checks import check_many
from ofa_slim.errors import ExportError

Sample = Mapping[str, np.ndarray]

LEAST_ROWS = 64  # that formats are compared on


def check_samples(samples: Sequence[Sample]) -> int:
    """How many rows some samples hold.

    Raises: ExportError for fewer than 64 rows, or samples that do not have the same inputs.
    """
    check_many(samples, "samples", "dictionaries of arrays by the name of the input", ExportError)
    if not samples or any(not isinstance(sample, Mapping) or not sample for sample in samples):
        raise ExportError("samples: expected dictionaries of arrays by the name of the input")
    rows = 0
    for number, sample in enumerate(samples):
        if list(sample) != list(samples[0]):
            raise ExportError(f"samples: number {number} has inputs {list(sample)}, the first {list(samples[0])}")
        if any(not isinstance(value, np.ndarray) or not value.ndim for value in sample.values()):
            raise ExportError(f"samples: number {number} has values that are not arrays with a batch dimension")
        counts = {len(value) for value in sample.values()}
        if len(counts) != 1:
            raise ExportError(f"samples: the inputs of number {number} have {sorted(counts)} rows")
        rows += counts.pop()
    if rows < LEAST_ROWS:
        raise ExportError(f"samples: {rows} rows; at least {LEAST_ROWS} are compared")
    return rows


def difference(expected: Sequence[Sequence[np.ndarray]], found: Sequence[Sequence[np.ndarray]]) -> float:
    """The largest absolute difference, in units of the largest number of the same output where that is above 1.

    Raises: ExportError where the outputs are not as many, or not of the same shapes.
    """
    largest = 0.0
    for number, (one, other) in enumerate(zip(expected, found, strict=True)):
        if [value.shape for value in one] != [value.shape for value in other]:
            shapes = [[list(value.shape) for value in side] for side in (one, other)]
            raise ExportError(f"sample {number}: outputs of shapes {shapes[1]}, expected {shapes[0]}")
        for wanted, value in zip(one, other, strict=True):
            if not wanted.size:
                continue
            gaps = np.abs(wanted.astype(np.float64) - value.astype(np.float64)) / max(1.0, float(np.abs(wanted).max()))
            largest = max(largest, float(gaps.max()) if np.isfinite(gaps).all() else float("inf"))
    return largest


def agreement(expected: Sequence[Sequence[np.ndarray]], found: Sequence[Sequence[np.ndarray]]) -> float:
    """How alike approximate outputs are to exact ones, at most 1.

    The share of equal decisions (the largest along the last dimension) where that has several entries, else the
    correlation of the numbers. The first output counts.
    """
    ones, others = ([np.asarray(outputs[0], np.float64) for outputs in side] for side in (expected, found))
    if ones[0].ndim and ones[0].shape[-1] > 1:
        same = [(one.argmax(-1) == other.argmax(-1)).ravel() for one, other in zip(ones, others, strict=True)]
        return float(np.concatenate(same).mean())
    one, other = (np.concatenate([value.ravel() for value in side]) for side in (ones, others))
    if not one.std() or not other.std():
        return float(np.allclose(one, other, atol=1e-2))
    return float(np.corrcoef(one, other)[0, 1])
