"""Progressive shrinking as arithmetic: which choices of which task train at an epoch.

Source: Cai et al. 2020, Once-for-All, arXiv:1908.09791.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

# Per task, how many of its largest choices take part (None: all of them); a task left out runs in full.
Offers = Mapping[str, int | None]


def phase_at(bounds: Sequence[Sequence[int]], epoch: int) -> tuple[int, int]:
    """The task and the phase of it that an epoch belongs to.

    Args:
        bounds: per task, the epochs at which its phases end, ascending over all.
        epoch: counted from 0.

    Returns: index of the task, index of the phase in it; the last of both after the last bound.
    """
    for task, phases in enumerate(bounds):
        for phase, bound in enumerate(phases):
            if epoch < bound:
                return task, phase
    return len(bounds) - 1, len(bounds[-1]) - 1


def offers_at(order: Sequence[str], bounds: Sequence[Sequence[int]], epoch: int) -> Offers:
    """What trains at an epoch: the newest task grows by a choice per phase, earlier ones offer all.

    Args:
        order: the tasks in the order they join.
        bounds: per task, the epochs at which its phases end.
        epoch: counted from 0.
    """
    task, phase = phase_at(bounds, epoch)
    return offers_of(order[: task + 1], phase)


def offers_of(tasks: Sequence[str], phase: int | None) -> Offers:
    """What trains in a phase: all choices of `tasks`, of the last one only the ``phase + 2`` largest."""
    offers: dict[str, int | None] = dict.fromkeys(tasks)
    if phase is not None:
        offers[tasks[-1]] = phase + 2
    return offers
