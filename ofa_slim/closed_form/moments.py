"""Sums over calibration rows from which every least-squares answer here is computed."""

from __future__ import annotations

import numpy as np
import paddle
from scipy.linalg import cho_factor, cho_solve

from ofa_slim.train.parallel import mean_over_ranks

RIDGE = 0.01
"""Of the mean diagonal of the second moment. From 0.001 to 0.1 it makes no difference, 1 costs a point of accuracy."""
_ROWS = 4096  # that are multiplied at once


class Moments:
    """First and second moments of the inputs X of a matrix, and of an error E to be corrected by it.

    Products of some thousand rows are of float32 on a CPU and of float64 on other devices; sums are float64.

    Args:
        inputs: channels of X.
        errors: channels of E; 0 where only X counts.

    Attributes:
        rows: how many rows of X went in; a mean over processes after `reduce`, as all sums are.
        squared: sum of the squares of E.
    """

    def __init__(self, inputs: int, errors: int = 0) -> None:
        self.rows = 0.0
        self.squared = 0.0
        self._waiting: list[tuple[paddle.Tensor, paddle.Tensor | None]] = []
        self._input = np.zeros(inputs)
        self._error = np.zeros(errors)
        self._second = np.zeros((inputs, inputs))
        self._cross = np.zeros((inputs, errors))

    def add(self, inputs: paddle.Tensor, errors: paddle.Tensor | None = None) -> None:
        """Adds rows: X float [rows, inputs] and E float [rows, errors]."""
        self._waiting.append((inputs, errors))
        if sum(len(waiting) for waiting, _ in self._waiting) >= _ROWS:
            self._sum_up()

    def _sum_up(self) -> None:
        """Adds the waiting rows to the sums: few large products are faster than many small ones."""
        if not self._waiting:
            return
        inputs = paddle.concat([waiting for waiting, _ in self._waiting])
        self.rows += inputs.shape[0]
        self._second += _product(inputs, inputs)
        self._input += _sum(inputs)
        with_errors = [waiting for _, waiting in self._waiting if waiting is not None]
        if with_errors:
            errors = paddle.concat(with_errors)
            exact = errors.astype("float64")
            self.squared += float((exact * exact).sum())  # a power is some thirty times as slow
            self._cross += _product(inputs, errors)
            self._error += _sum(errors)
        self._waiting = []

    def reduce(self) -> None:
        """Ends the sums; to be called once, after the last `add`.

        They become averages over the processes that run data-parallel, so that all compute the same from now on.
        """
        self._sum_up()
        whole = [np.array([self.rows, self.squared]), self._input, self._error, self._second, self._cross]
        for values in whole:
            if values.size:
                values[...] = mean_over_ranks(paddle.to_tensor(values)).numpy()
        self.rows, self.squared = map(float, whole[0])

    @property
    def mean(self) -> np.ndarray:
        """The mean of X, float64 [inputs]."""
        return self._input / self.rows

    def second(self, centred: bool) -> np.ndarray:
        """X^T X, float64 [inputs, inputs]; around the mean of X where a bias can take the mean over.

        What float32 products may be off by is added to the diagonal, so that it is never indefinite.
        """
        rounding = float(np.finfo(np.float32).eps) * float(np.trace(self._second)) * np.eye(len(self._second))
        if not centred:
            return self._second + rounding
        return self._second - np.outer(self._input, self._input) / self.rows + rounding

    def correction(self, bias: bool, ridge: float = RIDGE) -> tuple[np.ndarray, np.ndarray | None]:
        """The change D of the matrix, and d of its bias, that brings X D + d closest to E.

        It minimises ``|X D + d - E|^2 + ridge * mean(diag(X^T X)) * |D|^2``, so the squared error after it is never
        larger than |E|^2, whatever the rank of X.

        Returns: float64 [inputs, errors]; float64 [errors], None without `bias`.
        """
        cross = self._cross
        if bias:
            cross = cross - np.outer(self._input, self._error) / self.rows
        change = solve(damped(self.second(bias), ridge), cross)
        return change, (self._error - self._input @ change) / self.rows if bias else None

    def squared_after(self, change: np.ndarray, shift: np.ndarray | None) -> float:
        """The sum of the squares of E - X D - d."""
        fitted = self._second @ change - 2 * self._cross
        left = self.squared + float(np.sum(fitted * change))
        if shift is not None:
            left += float(shift @ (self.rows * shift + 2 * (self._input @ change - self._error)))
        return max(left, 0.0)


def damped(second: np.ndarray, ridge: float) -> np.ndarray:
    """H + ridge * mean(diag(H)) * I; the identity where H is zero."""
    level = float(np.trace(second)) / len(second)
    return second + (ridge * level if level > 0 else 1.0) * np.eye(len(second))


def solve(second: np.ndarray, right: np.ndarray) -> np.ndarray:
    """H^-1 R of a positive definite H, float64."""
    return cho_solve(cho_factor(second, lower=True), right)


def _product(one: paddle.Tensor, other: paddle.Tensor) -> np.ndarray:
    if one.place.is_cpu_place():
        left, right = one.astype("float32").numpy(), other.astype("float32").numpy()
        # Of the same array NumPy computes only half of the product.
        return left.T @ (left if one is other else right)
    return paddle.matmul(one.astype("float64"), other.astype("float64"), transpose_x=True).numpy()


def _sum(rows: paddle.Tensor) -> np.ndarray:
    return rows.astype("float64").sum(axis=0).numpy()
