"""Which sub-network trains next: the schedule's state and the sampling from it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ofa_slim.base.checks import check_many, check_whole
from ofa_slim.errors import ConfigError, nearest
from ofa_slim.supernet.axis import DEPTH, TASKS
from ofa_slim.supernet.run_config import RunConfig
from ofa_slim.supernet.space import SearchSpace
from ofa_slim.supernet.subnet_config import SubnetConfig
from ofa_slim.train.schedule import Offers, offers_at, offers_of, phase_at

_SYNONYMS = {"expand_ratio": "width", "channel": "width"}


class Sampler:
    """Samples sub-networks as the schedule of a `RunConfig` says.

    Args:
        space: the axes with their choices.
        order: the tasks in the order they join.
        run: the schedule.
    """

    def __init__(self, space: SearchSpace, order: Sequence[str], run: RunConfig) -> None:
        self._space = space
        self._order = order
        self._run = run
        self._offers: Offers = offers_of(order, None) if order else {}
        self._counts_epochs = run.counts_epochs
        self._forwards = self._iterations = 0
        if run.n_epochs is not None:
            self._to_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Says which epoch runs; from now on it is not counted any more."""
        self._counts_epochs = False
        self._to_epoch(epoch)

    def set_task(self, tasks: Sequence[str], phase: int | None) -> None:
        """Offers the choices of some tasks, of the last one the ``phase + 2`` largest (None: all)."""
        self._counts_epochs = False
        self._offers = offers_of(tasks, phase)

    def sample(self, rng: np.random.Generator, training: bool) -> SubnetConfig:
        """The next sub-network; in training, where epochs are counted, this counts."""
        if self._counts_epochs and training:
            self._count_forward()
        return self._space.sample(rng, self._offers)

    def _count_forward(self) -> None:
        run = self._run
        epoch = self._iterations // run.iterations_per_epoch
        self._to_epoch(epoch)
        task, _ = phase_at(run.n_epochs or [[1]], epoch)
        self._forwards += 1
        if self._forwards >= (run.dynamic_batch_size[task] if run.dynamic_batch_size else 1):
            self._forwards = 0
            self._iterations += 1

    def _to_epoch(self, epoch: int) -> None:
        if self._run.n_epochs is not None:
            self._offers = offers_at(self._order, self._run.n_epochs, epoch)


def checked_epoch(epoch: Any) -> int:
    """An epoch that a user gave; raises `ConfigError` for what is none."""
    check_whole(epoch, "epoch", 0, ConfigError)
    return int(epoch)


def checked_phase(phase: Any) -> int | None:
    """A phase that a user gave; raises `ConfigError` for what is none."""
    if phase is None:
        return None
    check_whole(phase, "phase", 0, ConfigError)
    return int(phase)


def checked_tasks(tasks: str | Sequence[str], what: str, present: Sequence[str]) -> list[str]:
    """Tasks that a user named, synonyms replaced.

    Args:
        tasks: a name or a list of them.
        what: what to call them in an error.
        present: the tasks that the model has.

    Raises: ConfigError for a name that is no task, or one that this model does not have.
    """
    if not isinstance(tasks, str):
        check_many(tasks, what, f"some of {', '.join(TASKS)}", ConfigError)
    names = [tasks] if isinstance(tasks, str) else [str(name) for name in tasks]
    names = list(dict.fromkeys(_SYNONYMS.get(name, name) for name in names))
    if not names:
        raise ConfigError(f"{what} names no task; this model has {', '.join(present) or 'none'}")
    for name in names:
        if name not in TASKS:
            raise ConfigError(f"{what} {name!r} is not one of {', '.join(TASKS)}{nearest(str(name), TASKS)}")
        if name not in present:
            hint = "; RunConfig(elastic_depth=...) gives the depths" if name == DEPTH else ""
            raise ConfigError(
                f"{what} {name!r}: nothing in this model has more than one such choice "
                f"(it has {', '.join(present) or 'none at all'}){hint}"
            )
    return names


def check_lengths(run: RunConfig, order: Sequence[str]) -> None:
    """Raises `ConfigError` where a list with one entry per task has another number of them."""
    for name in ("n_epochs", "dynamic_batch_size", "init_learning_rate"):
        value = getattr(run, name)
        if isinstance(value, (list, tuple)) and len(value) != len(order):
            raise ConfigError(
                f"{name} {list(value)} has {len(value)} entries for {len(order)} tasks ({', '.join(order)})"
            )
