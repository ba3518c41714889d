"""Optimal Brain Surgeon: which units to remove, one at a time, when the others make up for each.

Sources: Hassibi and Stork 1993, "Second order derivatives for network pruning: Optimal Brain Surgeon"; for structures
that share one second moment Kurtic et al. 2023, ZipLM, arXiv:2302.04089, section 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ofa_slim.closed_form.moments import damped, solve

_PENDING = 64  # columns whose updates are applied together, in one matrix product


@dataclass(frozen=True)
class Removal:
    """A nested order of units.

    Attributes:
        order: int64 [units], the unit that is kept longest first.
        errors: float64 [units + 1], the squared error of the output over all rows when so many units are kept.
    """

    order: np.ndarray
    errors: np.ndarray


def removal(problems: Sequence[tuple[np.ndarray, np.ndarray, int]], ridge: float) -> Removal:
    """Removes the units of a matrix one by one, each time the one whose loss the others make up for best.

    With W the rows of the matrix, S those of one unit and H the damped second moment of what they multiply, removing S
    costs ``trace(W_S^T ((H^-1)_SS)^-1 W_S)``; the others become ``W - H^-1[:, S] ((H^-1)_SS)^-1 W_S``, and H^-1 becomes
    ``H^-1 - H^-1[:, S] ((H^-1)_SS)^-1 H^-1[S, :]``. The costs need W only through ``W W^T``, which is updated instead.

    Args:
        problems: of every matrix that has these units, its second moment float [inputs, inputs], the matrix float
            [inputs, outputs], and how many inputs a unit has (input ``u * count + i`` belongs to unit u); their
            costs are added.
        ridge: of the mean diagonal of the second moment.
    """
    sweeps = [_Sweep(damped(second, ridge), weight.astype(np.float64), unit) for second, weight, unit in problems]
    units = sweeps[0].units
    left = np.ones(units, dtype=bool)
    removed, costs = np.empty(units, dtype=np.int64), np.empty(units)
    for step in range(units):
        cost = np.sum([sweep.costs() for sweep in sweeps], axis=0)
        removed[step] = np.argmin(np.where(left, cost, np.inf))
        costs[step] = max(float(cost[removed[step]]), 0.0)
        left[removed[step]] = False
        for sweep in sweeps:
            sweep.remove(int(removed[step]))
    return Removal(removed[::-1].copy(), np.concatenate([np.cumsum(costs)[::-1], [0.0]]))


def kept_rows(order: np.ndarray, units: int, unit: int) -> np.ndarray:
    """The inputs of the first `units` units of an order, int64, ascending."""
    return np.sort((order[:units, None] * unit + np.arange(unit)).reshape(-1))


def matrix_without(second: np.ndarray, weight: np.ndarray, kept: np.ndarray, ridge: float) -> np.ndarray:
    """The matrix whose rows other than `kept` are 0 and whose kept rows make up for them, float64 [inputs, outputs].

    It is what the updates of `removal` lead to, in one step: ``W_K + (H_KK)^-1 H_KR W_R``.
    """
    level = damped(second, ridge)
    rest = np.setdiff1d(np.arange(len(weight)), kept)
    found = np.zeros(weight.shape)
    found[kept] = weight[kept]
    if len(kept) and len(rest):
        found[kept] += solve(level[np.ix_(kept, kept)], level[np.ix_(kept, rest)] @ weight[rest])
    return found


class _Sweep:
    """H^-1 and G = W W^T of one matrix while its units go."""

    def __init__(self, second: np.ndarray, weight: np.ndarray, unit: int) -> None:
        self.units, self._unit = len(weight) // unit, unit
        inverse = solve(second, np.eye(len(second)))
        self._inverse, self._gram = (inverse + inverse.T) / 2, weight @ weight.T
        self._inverse_diagonal, self._gram_diagonal = self._diagonal(self._inverse), self._diagonal(self._gram)
        self._places = np.arange(len(weight))  # where each input is in the two matrices, which shrink
        self._inputs = np.arange(len(weight))
        self._removed: list[int] = []
        self._pending = max(1, _PENDING // unit) * unit
        self._waiting = 0
        self._columns = np.zeros((len(weight), self._pending))
        self._changes = np.zeros((len(weight), self._pending))

    def costs(self) -> np.ndarray:
        """Of every unit, float64 [units]; without meaning for those that were removed."""
        if self._unit == 1:
            return self._gram_diagonal[:, 0, 0] / np.maximum(self._inverse_diagonal[:, 0, 0], np.finfo(float).tiny)
        return np.trace(np.linalg.solve(self._inverse_diagonal, self._gram_diagonal), axis1=1, axis2=2)

    def remove(self, number: int) -> None:
        # With L L^T = (H^-1)_SS, V = H^-1[:, S] L^-T, Q = G[:, S] L^-T and T = Q - V (L^-1 G_SS L^-T) / 2, the updates
        # are H^-1 - V V^T and G - V T^T - T V^T.
        rows = self._places[number * self._unit : (number + 1) * self._unit]
        columns, changes = self._columns[:, : self._waiting], self._changes[:, : self._waiting]
        inverse_factor = np.linalg.inv(np.linalg.cholesky(self._inverse_diagonal[number])).T
        # Both matrices are symmetric, and rows lie in one piece.
        column = (self._inverse[rows].T - columns @ columns[rows].T) @ inverse_factor
        change = (self._gram[rows].T - columns @ changes[rows].T - changes @ columns[rows].T) @ inverse_factor
        change -= column @ (inverse_factor.T @ change[rows] / 2)
        self._update_diagonals(column, change)
        self._columns[:, self._waiting : self._waiting + self._unit] = column
        self._changes[:, self._waiting : self._waiting + self._unit] = change
        self._waiting += self._unit
        self._removed.append(number)
        # The removed unit's diagonal must not be divided by.
        self._inverse_diagonal[number] = np.eye(self._unit)
        if self._waiting == self._pending:
            self._apply()

    def _update_diagonals(self, column: np.ndarray, change: np.ndarray) -> None:
        units = self._inputs[:: self._unit] // self._unit
        one, other = (values.reshape(len(units), self._unit, -1) for values in (column, change))
        mixed = one @ other.transpose(0, 2, 1)
        self._inverse_diagonal[units] -= one @ one.transpose(0, 2, 1)
        self._gram_diagonal[units] -= mixed + mixed.transpose(0, 2, 1)

    def _apply(self) -> None:
        """Applies the pending updates, and drops the removed units from the matrices."""
        gone = np.isin(self._inputs // self._unit, self._removed)
        kept = np.flatnonzero(~gone)
        column, change = self._columns[kept], self._changes[kept]
        product = column @ change.T
        self._inverse = self._inverse[np.ix_(kept, kept)]
        self._inverse -= column @ column.T
        self._gram = self._gram[np.ix_(kept, kept)]
        self._gram -= product
        self._gram -= product.T
        self._inputs = self._inputs[kept]
        self._places = np.full(len(self._places), -1)
        self._places[self._inputs] = np.arange(len(kept))
        self._removed, self._waiting = [], 0
        self._columns, self._changes = np.zeros_like(column), np.zeros_like(change)

    def _diagonal(self, matrix: np.ndarray) -> np.ndarray:
        blocks = matrix.reshape(self.units, self._unit, self.units, self._unit)
        return np.ascontiguousarray(blocks[np.arange(self.units), :, np.arange(self.units), :])
