"""Budgets: what a sub-network may cost, and how a sub-network is brought within one."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from ofa_slim.errors import BudgetError, SearchError, nearest
from ofa_slim.search.choices import ChoiceIndices, Choices
from ofa_slim.search.cost_kinds import KEYS, kind_of
from ofa_slim.supernet.subnet_config import SubnetConfig

Condition = Mapping[str, float] | Callable[[SubnetConfig], bool] | None
CostOf = Callable[[SubnetConfig], Mapping[str, float]]


@dataclass(frozen=True)
class Budget:
    """What a sub-network may cost at most.

    Attributes:
        limits: ``{cost: most}``, with the keys of `KEYS`: parameters, multiply-accumulates, bytes, milliseconds, or
            their shares of the original model's.
        accepts: whether a config is allowed; None: every config within the limits is.

    Raises: SearchError for a key that is not a cost, or a limit that is not a number above 0.
    """

    limits: Mapping[str, float] = field(default_factory=dict)
    accepts: Callable[[SubnetConfig], bool] | None = None

    def __post_init__(self) -> None:
        """Checks the limits, which come from users."""
        for key, most in self.limits.items():
            if key not in KEYS:
                raise SearchError(
                    f"condition: no cost {key!r}{nearest(str(key), KEYS)}; the costs are {', '.join(KEYS)}"
                )
            if isinstance(most, bool) or not isinstance(most, (int, float, np.number)) or not 0 < most < math.inf:
                raise SearchError(f"condition: {key!r} is {most!r}, not a number above 0")

    @classmethod
    def of(cls, condition: Condition) -> Budget:
        """The budget of a published condition: limits, a function of the config, or None for no limit."""
        if condition is None or isinstance(condition, Mapping):
            return cls(dict(condition or {}))
        if callable(condition):
            return cls(accepts=condition)
        raise SearchError(
            f"condition is a {type(condition).__name__}; give a dictionary such as {{'latency_ms': 8.0}}, or a "
            "function of the config"
        )

    @property
    def cost(self) -> str:
        """The cost that is traded for the score: the first one that is limited, or the number of parameters."""
        return kind_of(next(iter(self.limits), "params")).name

    @property
    def needs_latency(self) -> bool:
        """Whether a limit needs measured times."""
        return any(kind_of(key).measured for key in self.limits)

    def violation(self, config: SubnetConfig, costs: Mapping[str, float]) -> float:
        """By how much a sub-network is over the budget: at most 0 for one within it.

        Args:
            config: the sub-network.
            costs: its costs, shares included.

        Returns: the largest ``cost / limit - 1``; at least 1 for a config that `accepts` refuses.
        """
        over = [costs[key] / most - 1 for key, most in self.limits.items()]
        if self.accepts is not None and not self.accepts(config):
            over.append(1.0)
        return max(over, default=-1.0)

    def describe(self) -> str:
        """The limits in words."""
        words = [f"{key} <= {most:g}" for key, most in self.limits.items()]
        if self.accepts is not None:
            words.append(f"accepted by {getattr(self.accepts, '__name__', 'the given function')}")
        return " and ".join(words) or "no limit"


def cheapest(
    budget: Budget, choices: Choices, cost_of: CostOf, rng: np.random.Generator, tries: int = 1000
) -> ChoiceIndices:
    """A sub-network within the budget, before any is scored.

    Tries the smallest one, then the axes one by one at the choice that brings it nearest to the budget (a measured time
    does not always fall with the size); for a budget that is a function also random ones.

    Raises: BudgetError that names the cheapest sub-network found and its costs, where none is within the budget.
    """
    numbers = choices.smallest()

    def violation(those: ChoiceIndices) -> float:
        config = choices.config(those)
        return budget.violation(config, cost_of(config))

    best = violation(numbers)
    for axis in choices.axes:
        if best <= 0:
            break
        options = [{**numbers, axis.name: number} for number in range(len(axis.choices))]
        found = [violation(option) for option in options]
        if min(found) < best:
            best, numbers = min(found), options[int(np.argmin(found))]
    for _ in range(tries if budget.accepts is not None else 0):
        if best <= 0:
            break
        other = choices.sample(rng)
        over = violation(other)
        if over < best:
            best, numbers = over, other
    if best > 0:
        config = choices.config(numbers)
        costs = cost_of(config)
        wanted = budget.limits or {budget.cost: 0.0}
        has = ", ".join(f"{key} {costs[key]:.4g}" for key in wanted)
        raise BudgetError(
            f"condition: no sub-network has {budget.describe()}; the cheapest one found has {has}: {config.to_json()}"
        )
    return numbers


def repair(
    numbers: ChoiceIndices, budget: Budget, choices: Choices, cost_of: CostOf, rng: np.random.Generator
) -> ChoiceIndices | None:
    """A sub-network within the budget: the same one, or one with random axes made smaller until it fits.

    Returns: None where it is over the budget even at its smallest.
    """
    current: ChoiceIndices | None = numbers
    while current is not None:
        config = choices.config(current)
        if budget.violation(config, cost_of(config)) <= 0:
            return current
        current = choices.lower(current, rng)
    return None
