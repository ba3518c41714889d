"""Dominance, the area below a front, and points spread along it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ofa_slim.search.front import hypervolume, ranks, spread


def dominated(one: tuple[float, float], others: list[tuple[float, float]]) -> bool:
    return any(s >= one[0] and c <= one[1] and (s, c) != one for s, c in others)


pairs = st.lists(st.tuples(st.integers(0, 6).map(float), st.integers(0, 6).map(float)), max_size=12)


@given(some=pairs)
def test_the_first_front_is_what_nothing_dominates(some: list[tuple[float, float]]) -> None:
    order = ranks(some)
    assert [rank == 0 for rank in order] == [not dominated(one, some) for one in some]
    left = [(one, rank) for one, rank in zip(some, order, strict=True) if rank > 0]
    inner = ranks([one for one, _ in left])
    assert [rank - 1 for _, rank in left] == inner


@given(some=pairs)
def test_the_hypervolume_is_the_area_that_is_dominated(some: list[tuple[float, float]]) -> None:
    cells = sum(any(s >= x + 1 and c <= y for s, c in some) for x in range(7) for y in range(7))
    assert hypervolume(some, (0.0, 7.0)) == cells


def test_a_spread_keeps_both_ends() -> None:
    costs = [(0.0, float(cost)) for cost in (5, 1, 3, 2, 4)]
    assert spread(range(5), costs, 3) == [1, 2, 0]
    assert spread(range(5), costs, 9) == list(range(5))
