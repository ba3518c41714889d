"""The batches that a training takes, in groups of one optimizer step; they go on from a saved state."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Sized
from itertools import islice
from typing import Any, Protocol

import numpy as np

from ofa_slim.errors import ConfigError
from ofa_slim.train import parallel
from ofa_slim.train.batches import Batch, Batches


class Feed(Protocol):
    """What `train` takes its batches from."""

    @property
    def steps(self) -> int:
        """How many groups there are."""

    def next_group(self) -> Sequence[tuple[Any, float]]:
        """The batches of the next step, each with its weight in the mean over processes."""

    def state_dict(self) -> dict[str, Any]:
        """What `set_state_dict` needs to go on."""

    def set_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a state."""


class ResumableSampler:
    """The batches of all epochs, in groups of one optimizer step; it resumes from a saved state.

    Args:
        batches: goes through the examples in a new order each time, drawn from `rng`.
        epochs: how many passes.
        accumulate: batches per group.
        rng: orders the batches; drawn from at the start of each epoch.
    """

    def __init__(self, batches: Batches, epochs: int, accumulate: int, rng: np.random.Generator) -> None:
        self._batches = batches
        self._group = accumulate
        self._rng = rng
        self._total = epochs * len(batches)
        self._taken = 0
        self._epoch_state = rng.bit_generator.state
        self._order: list[np.ndarray] = []

    @property
    def steps(self) -> int:
        """Groups in all epochs together."""
        return -(-self._total // self._group)

    def next_rows(self) -> list[np.ndarray]:
        """The rows of the next batches: as many as make a step, fewer at the very end."""
        group: list[np.ndarray] = []
        while len(group) < self._group and self._taken < self._total:
            place = self._taken % len(self._batches)
            if place == 0:
                self._epoch_state = self._rng.bit_generator.state
                self._order = self._batches.order(self._rng)
            group.append(self._order[place])
            self._taken += 1
        return group

    def next_group(self) -> list[tuple[Batch, float]]:
        """This process's part of the next batches, each with its weight."""
        return [self._own(rows) for rows in self.next_rows()]

    def _own(self, rows: np.ndarray) -> tuple[Batch, float]:
        own, weight = parallel.training_rows(len(rows))
        return self._batches.batch(rows, own), weight

    def state_dict(self) -> dict[str, Any]:
        """The batches taken so far, and the generator's states: before it drew this epoch's order, and now."""
        return {"taken": self._taken, "epoch": self._epoch_state, "rng": self._rng.bit_generator.state}

    def set_state_dict(self, state: dict[str, Any]) -> None:
        """Resumes from a state."""
        self._taken, self._epoch_state = state["taken"], state["epoch"]
        if self._taken % len(self._batches):
            self._rng.bit_generator.state = self._epoch_state
            self._order = self._batches.order(self._rng)
        self._rng.bit_generator.state = state["rng"]


class LoaderFeed:
    """The batches of a data loader, pass after pass.

    A training that goes on in the middle of a pass leaves out as many batches as it had taken. A loader that shuffles
    by a generator of its own gives others then.

    Args:
        loader: gives batches each time it is gone through, and has a length. Of several processes each has its own.
        epochs: how many passes.
        accumulate: batches per group.

    Raises: ConfigError for a loader without a length or without a batch.
    """

    def __init__(self, loader: Any, epochs: int, accumulate: int = 1) -> None:
        if not isinstance(loader, Sized) or isinstance(loader, Iterator):
            raise ConfigError(
                f"the loader is a {type(loader).__name__}, which cannot be gone through again or has no length; give a "
                "paddle.io.DataLoader over a dataset with a length, or a list of batches"
            )
        if not len(loader):
            raise ConfigError("the loader has no batch")
        self._loader: Any = loader
        self._group = accumulate
        self._total = epochs * len(loader)
        self._taken = 0
        self._left: Iterator[Any] | None = None

    @property
    def steps(self) -> int:
        """Groups in all passes together."""
        return -(-self._total // self._group)

    def next_group(self) -> list[tuple[Any, float]]:
        """The next batches, all of the same weight; fewer than a group at the very end."""
        count = min(self._group, self._total - self._taken)
        return [(self._next(), 1.0) for _ in range(count)]

    def _next(self) -> Any:
        place = self._taken % len(self._loader)
        if self._left is None or place == 0:
            self._left = islice(iter(self._loader), place, None)
        try:
            batch = next(self._left)
        except StopIteration:
            raise ConfigError(f"the loader gave fewer batches than its length, {len(self._loader)}") from None
        self._taken += 1
        return batch

    def state_dict(self) -> dict[str, Any]:
        """The number of batches taken so far."""
        return {"taken": self._taken}

    def set_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on after that many batches."""
        self._taken, self._left = state["taken"], None
