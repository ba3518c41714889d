from __future__ import annotations

import pytest

from ofa_slim.train.schedule import offers_at, offers_of, phase_at

BOUNDS = [[1], [2, 3], [4, 5]]
ORDER = ["kernel_size", "width", "depth"]


@pytest.mark.parametrize(
    ("epoch", "expected"),
    [(0, (0, 0)), (1, (1, 0)), (2, (1, 1)), (3, (2, 0)), (4, (2, 1)), (5, (2, 1)), (99, (2, 1))],
)
def test_an_epoch_belongs_to_the_first_phase_that_ends_after_it(epoch: int, expected: tuple[int, int]) -> None:
    assert phase_at(BOUNDS, epoch) == expected


@pytest.mark.parametrize(
    ("epoch", "expected"),
    [
        (0, {"kernel_size": 2}),
        (1, {"kernel_size": None, "width": 2}),
        (2, {"kernel_size": None, "width": 3}),
        (3, {"kernel_size": None, "width": None, "depth": 2}),
        (9, {"kernel_size": None, "width": None, "depth": 3}),
    ],
)
def test_the_newest_task_grows_by_a_choice_per_phase(epoch: int, expected: dict[str, int | None]) -> None:
    assert offers_at(ORDER, BOUNDS, epoch) == expected


def test_without_a_phase_everything_is_offered() -> None:
    assert offers_of(["width", "depth"], None) == {"width": None, "depth": None}
