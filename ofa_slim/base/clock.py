"""The one clock: every latency is measured by this protocol, wherever it is shown.

Programs take turns in rounds, in a new random order each time. What else the machine does then falls on all of them
alike. In its turn a program runs once without being timed, so that its weights are in the caches again as they are in a
server, and then a few times on the clock. Rounds go on until the median of each program is steady, or time is up.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np

Name = TypeVar("Name", bound=Hashable)
Clock = Callable[[], float]
"""Seconds from some fixed moment."""

Turn = Callable[[], Sequence[float]]
"""One turn of a program: the seconds of each of its timed runs."""

Rounds = Sequence[Sequence[float]]
"""The seconds of a program's timed runs, by round."""


@dataclass(frozen=True)
class Rule:
    """How long to measure.

    Attributes:
        warm_up: rounds that do not count.
        untimed: runs of a program at the start of each turn that are not timed.
        runs: timed runs of a program in one turn, at most; at least one.
        turn_seconds: a turn starts no further run after so much time.
        least: rounds that count, at least.
        most: rounds that count, at most.
        spread: measuring ends once the medians of the odd and the even rounds differ by no more than this share, for
            every program.
        seconds: no round starts after so much time, once `least` have been counted.
        limit: no round starts after so much time in any case, once one has been counted.
    """

    warm_up: int = 1
    untimed: int = 1
    runs: int = 5
    turn_seconds: float = 0.25
    least: int = 6
    most: int = 40
    spread: float = 0.01
    seconds: float = 10.0
    limit: float = 120.0


@dataclass(frozen=True)
class Latency:
    """The time of one forward, in milliseconds.

    Attributes:
        median: of all runs.
        p95: what 95 of 100 runs do not exceed.
        runs: how many there were.
    """

    median: float
    p95: float
    runs: int

    @classmethod
    def of(cls, rounds: Rounds) -> Latency:
        """The latency of a program that was timed by `in_turns`."""
        milliseconds = 1000 * np.concatenate(rounds)
        return cls(float(np.median(milliseconds)), float(np.percentile(milliseconds, 95)), len(milliseconds))

    def scaled(self, factor: float) -> Latency:
        """The same with all times multiplied."""
        return Latency(factor * self.median, factor * self.p95, self.runs)


def one_turn(
    program: Callable[[], object], runs: int, seconds: float, untimed: int = 1, clock: Clock = time.perf_counter
) -> list[float]:
    """Runs a program `untimed` times, then on the clock up to `runs` times; no run starts after `seconds`.

    Returns: the seconds of each timed run, at least one.
    """
    for _ in range(untimed):
        program()
    taken: list[float] = []
    begin = clock()
    while not taken or (len(taken) < runs and clock() - begin < seconds):
        start = clock()
        program()
        taken.append(clock() - start)
    return taken


def rest(
    limit: float = 1.0,
    step: float = 0.01,
    work: Clock = time.process_time,
    clock: Clock = time.perf_counter,
    sleep: Callable[[float], object] = time.sleep,
) -> None:
    """Waits until the threads of this process are idle: those of an engine spin for a while after their work.

    Args:
        limit: seconds after which it waits no longer.
        step: seconds between two looks; idle is who then has worked for less than a tenth of them.
        work: the processor time of this process.
        clock: the time.
        sleep: waits.
    """
    begin = clock()
    while clock() - begin < limit:
        before = work()
        sleep(step)
        if work() - before < step / 10:
            return


def in_turns(turns: Mapping[Name, Turn], rule: Rule, clock: Clock = time.perf_counter) -> dict[Name, list[list[float]]]:
    """Gives every program a turn per round until all medians are steady; see `Rule`.

    Returns: the rounds of each program that count.
    """
    names = list(turns)
    rounds: dict[Name, list[list[float]]] = {name: [] for name in names}
    rng = np.random.default_rng(0)
    begin = clock()
    for number in range(rule.warm_up + rule.most):
        for chosen in rng.permutation(len(names)):
            taken = turns[names[chosen]]()
            if number >= rule.warm_up:
                rounds[names[chosen]].append(list(taken))
        counted, passed = number + 1 - rule.warm_up, clock() - begin
        if counted >= 1 and passed > rule.limit:
            break
        if counted >= rule.least and (
            passed > rule.seconds or all(steady(each, rule.spread) for each in rounds.values())
        ):
            break
    return rounds


def over_loads(
    opens: Mapping[Name, Callable[[], Callable[[], object]]], rule: Rule, loads: int = 3
) -> dict[Name, list[list[float]]]:
    """The rounds of programs of this process, all loaded `loads` times.

    Where a program lies in memory makes it up to a tenth slower for as long as it is loaded (seen on Paddle 3.3.1).

    Args:
        opens: loads each program.
        rule: how long to measure in each load.
        loads: how often each is loaded.
    """
    rounds: dict[Name, list[list[float]]] = {name: [] for name in opens}
    for _ in range(loads):
        turns = {
            name: partial(one_turn, load(), rule.runs, rule.turn_seconds, rule.untimed) for name, load in opens.items()
        }
        for name, more in in_turns(turns, rule).items():
            rounds[name] += more
    return rounds


def steady(rounds: Rounds, spread: float) -> bool:
    """Whether the medians of every other round agree."""
    if len(rounds) < 2:
        return False
    even, odd = (float(np.median(np.concatenate(half))) for half in (rounds[::2], rounds[1::2]))
    return abs(even - odd) <= spread * max(even, odd)


def ratio(rounds: Rounds, reference: Rounds) -> float:
    """How long a program takes in units of another that took turns with it: the median over the rounds."""
    shares = [np.median(one) / np.median(other) for one, other in zip(rounds, reference, strict=True)]
    return float(np.median(shares))
