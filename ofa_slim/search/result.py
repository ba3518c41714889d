"""The result of a search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ofa_slim.errors import SearchError
from ofa_slim.search.budget import Budget
from ofa_slim.search.cost_kinds import KEYS
from ofa_slim.search.front import ranks
from ofa_slim.supernet.subnet_config import SubnetConfig


@dataclass(frozen=True)
class Point:
    """A sub-network that was scored.

    Attributes:
        config: its sizes.
        score: from `eval_func`, or from `screen` where `final` is False.
        costs: by name, shares of the original's included.
        kind: ``"original"``, ``"allocated"``, ``"uniform"``, ``"optimiser"`` or ``"regressor"``: what proposed it.
        within: whether it is within the budget.
        metrics: every score by name.
        final: whether `eval_func` scored it.
        screened: the score from `screen`; None without one.
        expected: the score that the regressor predicted; None where it was not used.
    """

    config: SubnetConfig
    score: float
    costs: Mapping[str, float]
    kind: str
    within: bool
    metrics: Mapping[str, float] = field(default_factory=dict)
    final: bool = True
    screened: float | None = None
    expected: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "config": dict(self.config), "costs": dict(self.costs), "metrics": dict(self.metrics)}


@dataclass(frozen=True)
class Winner:
    """A sub-network of the front, exported and measured.

    Attributes:
        point: its result in the search.
        score: of the exported model, from `eval_func`.
        latency_ms: its measured median; None where no time was measured.
        original_latency_ms: the original's, in turns with it.
        directory: where the exported model is; None where nothing is kept.
    """

    point: Point
    score: float
    latency_ms: float | None = None
    original_latency_ms: float | None = None
    directory: str | None = None

    @property
    def share(self) -> float | None:
        """Its measured time as a share of the original's; None where no time was measured."""
        if self.latency_ms is None or self.original_latency_ms is None:
            return None
        return self.latency_ms / self.original_latency_ms


@dataclass(frozen=True)
class SearchResult:
    """The result of `OFA.search`.

    Attributes:
        points: every sub-network that was scored, in order.
        budget: the limits of their costs.
        cost: which cost is traded for the score.
        metric: the name of the score.
        complete: whether the search came to its end; False where it was interrupted.
        rank_correlation: of the regressor's predictions with the scores of points that it had not seen; NaN without a
            regressor.
        winners: the front's best ones, exported and measured.
    """

    points: Sequence[Point]
    budget: Budget
    cost: str
    metric: str
    complete: bool = True
    rank_correlation: float = float("nan")
    winners: Sequence[Winner] = ()

    @property
    def best(self) -> Point:
        """The highest score within the budget, the cheaper one of equals.

        Raises: SearchError where nothing within the budget was scored, as in a search that was interrupted early.
        """
        inside = self._inside()
        if not inside:
            raise SearchError(f"nothing with {self.budget.describe()} has been scored yet; go on with the search")
        return max(inside, key=lambda point: (point.score, -point.costs[self.cost]))

    @property
    def config(self) -> SubnetConfig:
        """The best sub-network."""
        return self.best.config

    @property
    def front(self) -> list[Point]:
        """Those within the budget that no other beats in both score and cost, the cheapest first."""
        inside = self._inside()
        order = ranks([(point.score, point.costs[self.cost]) for point in inside])
        found = [point for point, rank in zip(inside, order, strict=True) if rank == 0]
        return sorted(found, key=lambda point: point.costs[self.cost])

    @property
    def original(self) -> Point | None:
        """The model that the supernet was made of; None where it was not scored."""
        return next((point for point in self.points if point.kind == "original"), None)

    @property
    def uniform(self) -> list[Point]:
        """The sub-networks of one width and depth for the whole model, the cheapest first."""
        found = [point for point in self.points if point.kind in ("uniform", "original")]
        return sorted(found, key=lambda point: point.costs[self.cost])

    def best_within(self, condition: Mapping[str, float]) -> Point:
        """The highest score within another, smaller budget, from the same points.

        Raises: SearchError where no scored sub-network is within it.
        """
        budget = Budget(condition)
        missing = [key for key in condition if self.points and key not in self.points[0].costs]
        if missing:
            raise SearchError(f"condition: {missing[0]!r} was not measured in this search; the costs are {KEYS}")
        inside = [point for point in self._inside() if budget.violation(point.config, point.costs) <= 0]
        if not inside:
            raise SearchError(f"no scored sub-network has {budget.describe()}")
        return max(inside, key=lambda point: (point.score, -point.costs[self.cost]))

    def _inside(self) -> list[Point]:
        """The points within the budget that the same function scored: the final ones where there are any."""
        inside = [point for point in self.points if point.within]
        return [point for point in inside if point.final] or inside

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "metric": self.metric,
            "cost": self.cost,
            "budget": self.budget.describe(),
            "limits": dict(self.budget.limits),
            "complete": self.complete,
            "rank_correlation": None if self.rank_correlation != self.rank_correlation else self.rank_correlation,
            "best": self.best.to_dict() if self._inside() else None,
            "front": [point.to_dict() for point in self.front],
            "winners": [{**asdict(winner), "point": winner.point.to_dict()} for winner in self.winners],
            "points": [point.to_dict() for point in self.points],
        }
