"""Timing several sides in alternation, and printing what came out; knows nothing of what is timed."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

Side = Callable[[], float]
"""Does its work once; returns the seconds that it took."""


def timed(work: Callable[[], Any]) -> Side:
    """A side that times itself by the clock on the wall."""

    def side() -> float:
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    return side


class Ratio(NamedTuple):
    """Seconds of one side over those of another, of the same rounds."""

    median: float
    smallest: float
    largest: float

    def __str__(self) -> str:
        return f"{self.median:.3f} ({self.smallest:.3f} to {self.largest:.3f})"


def alternate(sides: Mapping[str, Side], rounds: int) -> dict[str, list[float]]:
    """Runs each side once per round, another one going first in each round, and prints each round.

    One round that does not count goes first.

    Returns: the seconds of each side, one number per round.
    """
    names = list(sides)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for side in sides.values():
        side()
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            seconds[name].append(sides[name]())
        print(f"round {number + 1}: " + ", ".join(f"{name} {seconds[name][-1]:.3f} s" for name in names), flush=True)
    return seconds


def ratio(seconds: Mapping[str, list[float]], side: str, other: str) -> Ratio:
    """How long one side took in units of another.

    A slow spell of the machine falls on all sides of a round, so the median of the rounds' ratios is steadier
    than the ratio of the medians.
    """
    ratios = [a / b for a, b in zip(seconds[side], seconds[other], strict=True)]
    return Ratio(statistics.median(ratios), min(ratios), max(ratios))


def table(seconds: Mapping[str, list[float]], base: str) -> str:
    """Median, smallest and largest seconds of each side, and its ratio to one of them, as Markdown."""
    lines = [f"| side | median | smallest | largest | in units of {base} |", "| --- | ---: | ---: | ---: | ---: |"]
    for name, values in seconds.items():
        times = " | ".join(f"{value:.3f} s" for value in (statistics.median(values), min(values), max(values)))
        lines.append(f"| {name} | {times} | {ratio(seconds, name, base)} |")
    return "\n".join(lines)


def report(
    name: str,
    seconds: Mapping[str, list[float]],
    base: str,
    wanted: Mapping[tuple[str, str], str | None],
    **settings: Any,
) -> None:
    """Prints a table and the ratios that matter, and the same as one JSON line for programs.

    Args:
        name: of the benchmark.
        seconds: what `alternate` returned.
        base: the side that the table divides by.
        wanted: which ratios of a side to another matter, by both names, and in words what each should be.
        settings: what was timed.
    """
    print(table(seconds, base))
    ratios = {pair: ratio(seconds, *pair) for pair in wanted}
    for (side, other), words in wanted.items():
        print(f"{name}: {side} / {other}: {ratios[side, other]}" + (f"; wanted: {words}" if words else ""))
    result = {
        "benchmark": name,
        **settings,
        "seconds": {side: round(statistics.median(values), 4) for side, values in seconds.items()},
        "ratios": {f"{side} / {other}": [round(x, 4) for x in found] for (side, other), found in ratios.items()},
    }
    print(json.dumps(result))
