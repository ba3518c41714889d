"""How far something is: a bar in a terminal, and elsewhere, as in a log file, a line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import Any, TypeVar

from tqdm import tqdm

EVERY = 10.0  # seconds between two lines

Item = TypeVar("Item")


def progress(total: int | None, title: str, units: str, *, initial: int = 0, show: bool = True) -> Any:
    """What shows how far something is, on standard error; a context manager.

    In a terminal it is a bar of `tqdm`, which is gone at the end. Elsewhere it is a line every ten seconds, and one at
    the end of what took longer than that.

    Args:
        total: how many units there are; None where nobody knows.
        title: of what is being done.
        units: what is counted, in the plural.
        initial: how many are done already.
        show: whether to show anything.

    Returns: an object with `n`, ``update(count=1)``, ``set_postfix_str(text)`` and ``close()``.
    """
    if not show or sys.stderr is None or sys.stderr.isatty():
        return tqdm(
            total=total,
            initial=initial,
            desc=title,
            unit=f" {units}",
            dynamic_ncols=True,
            leave=False,
            disable=not show,
        )
    return Lines(total, title, units, initial)


def counted(items: Iterable[Item], title: str, units: str, *, show: bool = True) -> Iterator[Item]:
    """The items, counted by `progress`."""
    total = len(items) if isinstance(items, Sized) else None
    with progress(total, title, units, show=show) as bar:
        for item in items:
            yield item
            bar.update()


class Lines:
    """Progress as single lines.

    Args:
        total: how many units there are; None where nobody knows.
        title: of what is being done.
        units: what is counted, in the plural.
        initial: how many are done already.
        every: seconds between two lines.

    Attributes:
        n: how many are done.
    """

    def __init__(self, total: int | None, title: str, units: str, initial: int = 0, every: float = EVERY) -> None:
        self.n = initial
        self._total, self._title, self._units, self._initial, self._every = total, title, units, initial, every
        self._more = ""
        self._start = self._said = time.monotonic()
        self._closed = False

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def update(self, count: int = 1) -> None:
        """Counts units that are done."""
        self.n += count
        now = time.monotonic()
        if now - self._said >= self._every and self.n != self._total:  # the last line is for the end
            self._say(now)

    def set_postfix_str(self, text: str, refresh: bool = True) -> None:
        """What the next line ends with."""
        self._more = text

    def close(self) -> None:
        """Says how it ended, where it took long enough for anyone to wait."""
        now = time.monotonic()
        if not self._closed and now - self._start >= self._every:
            self._say(now)
        self._closed = True

    def _say(self, now: float) -> None:
        self._said = now
        done = self.n - self._initial
        words = [f"{self._title}: {self.n}" + ("" if self._total is None else f" of {self._total}") + f" {self._units}"]
        words.append(f"{duration(now - self._start)} so far")
        if self._total is not None and 0 < done and self.n < self._total:
            words.append(f"about {duration((now - self._start) / done * (self._total - self.n))} left")
        if self._more:
            words.append(self._more)
        print(", ".join(words), file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """A time in words: seconds below 100 s, then minutes, then hours."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 99.5 * 60 else f"{seconds / 3600:.1f} h"
