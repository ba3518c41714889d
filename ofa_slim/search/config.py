"""`SearchConfig`: the settings of a search."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from optuna.storages import BaseStorage

from ofa_slim.base.checks import check_kind, check_whole, checked_path
from ofa_slim.closed_form import Curve
from ofa_slim.errors import SearchError
from ofa_slim.measure import LatencyTable
from ofa_slim.measure.programs import ENGINES
from ofa_slim.search.proposals import ALGORITHMS

EvalFunc = Callable[[Any], float | Mapping[str, float]]
"""``eval_func(ofa_model)`` with the sub-network set -> its score, the higher the better, or several by name."""


@dataclass(frozen=True)
class SearchConfig:
    """The settings of `OFA.search`.

    Args:
        candidates: how many sub-networks are scored, the uniform ones among them.
        screen: a cheaper function of the kind of `eval_func`, such as the same on a fixed part of the rows (see
            `stratified`). Where it is given it scores the candidates, and `eval_func` only the `survivors`.
        survivors: how many candidates `eval_func` scores then: those nearest the front, beside the first ones.
        metric: which of several scores counts; the first by default.
        algorithm: Optuna's ``"nsga2"``, ``"tpe"`` or ``"random"``.
        regressor: whether scores are also predicted, by a Gaussian process on the sizes, to propose candidates.
        warm_up: how many are scored before it proposes; by default twice the number of elastic axes, at least 30.
        multiple_of: widths are multiples of so many channels.
        choices: other sizes than those that training samples, ``{axis name: sizes}``.
        curves: what the model loses when one axis is cut, of `closed_form.measure_curves`: the sizes that these give
            within the budget are scored before the uniform ones.
        seed: of all randomness.
        latency: measured times; without them, a search whose budget limits time measures them first.
        engine: that will serve, in which these are measured and winners timed; see `LatencyTable.build`. It is the
            table's where `latency` is given.
        input_shapes: of one call, for costs and times; as in `OFA.export`.
        input_dtypes: as in `OFA.export`.
        calibration: batches of inputs to re-estimate batch-norm statistics with before each is scored.
        calibration_batches: how many of them; None: all.
        directory: receives the search itself (SQLite), the times, the winners and the report; None: nothing is kept.
        storage: another storage of Optuna or its URL, so that several machines can work on one search.
        study_name: of the search in that storage.
        winners: how many sub-networks of the front are exported, measured and scored again, the best one first.
        progress: whether to show a bar.

    Raises: SearchError for invalid values.
    """

    candidates: int = 200
    screen: EvalFunc | None = None
    survivors: int = 24
    metric: str | None = None
    algorithm: str = "nsga2"
    regressor: bool = True
    warm_up: int | None = None
    multiple_of: int | None = None
    choices: Mapping[str, Iterable[int]] | None = None
    curves: Sequence[Curve] = ()
    seed: int = 0
    latency: LatencyTable | None = None
    engine: str = "inference"
    input_shapes: Any = None
    input_dtypes: Any = None
    calibration: Iterable[Any] | None = None
    calibration_batches: int | None = None
    directory: str | os.PathLike[str] | None = "search"
    storage: str | BaseStorage | None = None
    study_name: str = "search"
    winners: int = 1
    progress: bool = True

    def __post_init__(self) -> None:
        """Checks what can be checked without a model."""
        least = {"candidates": 1, "survivors": 1, "warm_up": 4, "multiple_of": 1, "seed": 0, "winners": 0}
        for name, smallest in least.items():
            value = getattr(self, name)
            optional = name in ("warm_up", "multiple_of")
            if optional and value is None:
                continue
            check_whole(value, name, smallest, SearchError)
        if self.algorithm not in tuple(ALGORITHMS):
            raise SearchError(f"algorithm {self.algorithm!r} is not one of {', '.join(ALGORITHMS)}")
        if self.screen is not None and not callable(self.screen):
            raise SearchError(f"screen is a {type(self.screen).__name__}, not a function of the OFA model")
        if self.latency is not None:
            check_kind(self.latency, LatencyTable, "latency", SearchError)
        if self.directory is not None:
            checked_path(self.directory, "directory", SearchError)
        if not isinstance(self.curves, Sequence) or not all(isinstance(one, Curve) for one in self.curves):
            raise SearchError(f"curves is a {type(self.curves).__name__}, not a list of closed_form.Curve")
        if self.engine not in tuple(ENGINES):
            raise SearchError(f"engine {self.engine!r} is not one of {', '.join(ENGINES)}")


def stratified(labels: Iterable[Any], count: int, seed: int = 0) -> np.ndarray:
    """A fixed part of some rows in which every class has the same share as in all rows.

    Args:
        labels: the class of each row; for regression, groups of values.
        count: how many rows.
        seed: chooses among the rows of a class.

    Returns: int64 [count], the numbers of the rows, ascending.

    Raises: SearchError where there are not that many rows.
    """
    values = np.asarray(list(labels))
    if isinstance(count, bool) or not 1 <= count <= len(values):
        raise SearchError(f"count is {count!r}, not between 1 and the {len(values)} rows that there are")
    order = np.random.default_rng(seed).permutation(len(values))
    # Rows in the order of their class, at equal distances: each class gets its share, to within one row.
    by_class = order[np.argsort(values[order], kind="stable")]
    places = ((np.arange(count) + 0.5) * len(values) / count).astype(np.int64)
    return np.sort(by_class[places])
