"""Sub-networks that measured curves allocate within a budget, for a search to begin with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ofa_slim.closed_form import Curve, allocate
from ofa_slim.errors import CalibrationError
from ofa_slim.search.budget import Budget
from ofa_slim.search.choices import Choices
from ofa_slim.search.costs import Costs
from ofa_slim.supernet.subnet_config import SubnetConfig


def allocated(curves: Sequence[Curve], choices: Choices, budget: Budget, costs: Costs) -> list[SubnetConfig]:
    """The sizes that lose least within a budget, at each depth that all stacks can have.

    Args:
        curves: of some axes; others stay in full.
        choices: of the search.
        budget: without limits there is nothing to allocate.
        costs: of a config.
    """
    elastic = {axis.name: axis.choices for axis in choices.axes}
    own = [curve.among(elastic[curve.axis]) for curve in curves if curve.axis in elastic]
    if not own or not budget.limits:
        return []
    found = []
    for depth in choices.depths():
        kept = {**choices.space.largest(), **depth}

        def config_of(sizes: Mapping[str, int], kept: Mapping[str, int] = kept) -> SubnetConfig:
            return choices.config(choices.numbers({**kept, **sizes}))

        def share_of(sizes: Mapping[str, int]) -> float:
            config = config_of(sizes)
            return 1 + budget.violation(config, costs(config))

        try:
            found.append(config_of(allocate(own, share_of, 1.0)))
        except CalibrationError:
            continue  # the smallest sizes of this depth are over the budget
    return found
