"""Predicting the score of a sub-network from those that were scored."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
from scipy.stats import spearmanr
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, DotProduct, Matern, WhiteKernel
from sklearn.model_selection import KFold, cross_val_predict

FOLDS = 5


class ScoreRegressor:
    """A Gaussian process over the share of each axis that is kept: a linear part, a smooth one, and noise.

    Args:
        shares: float64 [points, axes].
        scores: one for each point.
        seed: of the folds.

    Attributes:
        rank_correlation: Spearman's, of scores with what the others predict of each fifth of the points; NaN where all
            are equal.
    """

    def __init__(self, shares: np.ndarray, scores: Sequence[float], seed: int = 0) -> None:
        values = np.asarray(scores, dtype=float)
        self._model = _process()
        with warnings.catch_warnings():
            # Hyperparameters at their bounds: a part of the kernel that these points do not need.
            warnings.simplefilter("ignore", ConvergenceWarning)
            folds = KFold(min(FOLDS, len(values)), shuffle=True, random_state=seed)
            held_out = cross_val_predict(_process(), shares, values, cv=folds)
            self._model.fit(shares, values)
        constant = np.ptp(held_out) == 0 or np.ptp(values) == 0
        self.rank_correlation = float("nan") if constant else float(spearmanr(held_out, values).statistic)

    def __call__(self, shares: np.ndarray) -> np.ndarray:
        """The scores to expect, float64 [points]."""
        return np.asarray(self._model.predict(shares), dtype=float)


def _process() -> GaussianProcessRegressor:
    kernel = ConstantKernel(1.0) * DotProduct(1.0) + ConstantKernel(0.1) * Matern(1.0, nu=2.5) + WhiteKernel(0.1)
    return GaussianProcessRegressor(kernel, normalize_y=True)
