"""Timing several programs in turns until their medians are steady."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

Clock = Callable[[], float]
"""Seconds from some fixed moment."""


@dataclass(frozen=True)
class Rule:
    """When enough was measured.

    Attributes:
        warm_up: rounds that do not count.
        least: rounds that are measured at least.
        most: rounds that are measured at most.
        spread: done once the medians of the odd and the even rounds differ by no more than this share, for every
            program.
        seconds: no round begins after so much time, once `least` have been.
    """

    warm_up: int = 3
    least: int = 30
    most: int = 200
    spread: float = 0.01
    seconds: float = 5.0


def in_turns(
    programs: Mapping[Any, Callable[[], None]], rule: Rule, clock: Clock = time.perf_counter
) -> dict[Any, np.ndarray]:
    """Runs each program once per round, in a new random order each time.

    What else the machine does then falls on all of them alike, and none finds its weights in the cache because it has
    just run, or always finds them driven out by the same other one.

    Returns: the seconds of every run that counts, float64 [rounds], by program.
    """
    names = list(programs)
    seconds: dict[Any, list[float]] = {name: [] for name in names}
    rng = np.random.default_rng(0)
    begin = clock()
    for number in range(rule.warm_up + rule.most):
        for place in rng.permutation(len(names)):
            name = names[place]
            start = clock()
            programs[name]()
            took = clock() - start
            if number >= rule.warm_up:
                seconds[name].append(took)
        measured = number + 1 - rule.warm_up
        if measured >= rule.least and measured % 10 == 0:
            if clock() - begin > rule.seconds or all(steady(taken, rule.spread) for taken in seconds.values()):
                break
    return {name: np.array(taken) for name, taken in seconds.items()}


def steady(seconds: list[float], spread: float) -> bool:
    """Whether the medians of every other run agree."""
    even, odd = np.median(seconds[::2]), np.median(seconds[1::2])
    return bool(abs(even - odd) <= spread * max(even, odd))


def ratio(seconds: np.ndarray, reference: np.ndarray) -> float:
    """How long a program took in units of another, by the rounds that both ran in."""
    return float(np.median(seconds / reference))
