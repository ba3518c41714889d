"""Which of many trade-offs of score and cost are best: the Pareto front and its hypervolume."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Pair = tuple[float, float]
"""A score, the higher the better, and a cost, the lower the better."""


def ranks(pairs: Sequence[Pair]) -> list[int]:
    """Non-dominated rank of each pair; 0 is the Pareto front.

    A pair dominates another if its score is at least as high its cost at most as high, and one is better.
    """
    found = [-1] * len(pairs)
    rest = sorted(range(len(pairs)), key=lambda one: (pairs[one][1], -pairs[one][0]))
    rank = 0
    while rest:
        later, best, cost = [], -np.inf, np.nan
        for one in rest:
            score = pairs[one][0]
            # Equal pairs share a front; they are neighbours in this order.
            if score > best or (score == best and pairs[one][1] == cost):
                found[one], best, cost = rank, score, pairs[one][1]
            else:
                later.append(one)
        rest, rank = later, rank + 1
    return found


def hypervolume(pairs: Sequence[Pair], reference: Pair) -> float:
    """The area that some pairs dominate above a reference's score and below its cost; 0 where none is there."""
    area, score = 0.0, reference[0]
    for one in sorted(pairs, key=lambda pair: (pair[1], -pair[0])):
        if one[1] < reference[1] and one[0] > score:
            area += (one[0] - score) * (reference[1] - one[1])
            score = one[0]
    return area


def spread(order: Sequence[int], pairs: Sequence[Pair], count: int) -> list[int]:
    """Some of `order`, spread evenly over their costs."""
    if count >= len(order):
        return list(order)
    by_cost = sorted(order, key=lambda one: pairs[one][1])
    places = np.unique(np.linspace(0, len(by_cost) - 1, count).round().astype(int))
    return [by_cost[place] for place in places]
