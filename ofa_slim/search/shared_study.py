"""The scored sub-networks of a search in an Optuna study, which several processes may fill together.

One process at a time takes a point. With a storage that has transactions in place of a lock, a point is first written
as waiting; the process that takes it gives it up if an earlier trial has the same config, or the search has enough
without it. The storage numbers the trials, so exactly one process keeps each config. A point whose process has died is
put back.
"""

from __future__ import annotations

import logging
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import lru_cache
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, Trial, TrialState

from ofa_slim.base.settings import differences
from ofa_slim.errors import SearchError
from ofa_slim.search.choices import Choices
from ofa_slim.search.proposals import CONFIG, DIRECTIONS, VIOLATION, Proposal, Scored, attributes, sampler_of
from ofa_slim.search.study_storage import Lock
from ofa_slim.supernet.subnet_config import SubnetConfig

logger = logging.getLogger(__name__)

_SETTINGS = "settings"
_WORKER = "worker"
_TAKEN = "taken"  # when, in seconds since 1970; Optuna's own times are of each machine's time zone
_NEW = 10.0  # seconds in which a process that took a point has surely signed it
_STALE = 3600.0  # seconds after which a point of another machine counts as abandoned
_WAIT = 0.2  # seconds between two looks at what others do


class SharedStudy:
    """One study of a search.

    Args:
        storage: where it is kept.
        name: of the study.
        choices: the elastic axes.
        limit: how many sub-networks are scored in it.
        settings: what the scores depend on; a study that was begun with others is refused.
        lock: is held by the process that changes the study.

    Raises: SearchError that names the settings that differ.
    """

    def __init__(
        self,
        storage: BaseStorage,
        name: str,
        choices: Choices,
        limit: int,
        settings: Mapping[str, Any],
        lock: Lock = nullcontext,
    ) -> None:
        self._choices = choices
        self.limit = limit
        self._lock = lock
        self._me = _process_name()
        self._unsigned: dict[int, float] = {}  # when this process saw each point that nobody had signed yet
        with lock():
            self.study = optuna.create_study(
                storage=storage,
                study_name=name,
                directions=DIRECTIONS,
                sampler=sampler_of("nsga2", 0),  # gives every trial its generation; choices are proposed
                load_if_exists=True,
            )
            self._check(settings)

    def _check(self, settings: Mapping[str, Any]) -> None:
        known = self.study.user_attrs.get(_SETTINGS)
        if known is None:
            self.study.set_user_attr(_SETTINGS, dict(settings))
            return
        changes = differences(known, settings)
        if changes:
            raise SearchError(
                f"the search {self.study.study_name!r} in this storage was begun with other settings: "
                f"{', '.join(changes)}; choose another directory (or study_name), or delete it"
            )

    def done(self) -> list[FrozenTrial]:
        """The scored sub-networks, in order."""
        return [trial for trial in self._trials() if trial.state == TrialState.COMPLETE]

    def take(
        self, propose: Callable[[Scored], Proposal | None], describe: Callable[[SubnetConfig], tuple[Any, float]]
    ) -> Trial | None:
        """A sub-network to score, which no other process scores; waits where only the others have one.

        Args:
            propose: gives the next one, or None where there is none left.
            describe: gives a config's costs, and by how much it is over the budget.

        Returns: a trial with its attributes; None where the search is complete.
        """
        while True:
            with self._lock():
                trial, more = self._next_point(propose, describe)
            if trial is not None or not more:
                return trial
            time.sleep(_WAIT)

    def _next_point(
        self, propose: Callable[[Scored], Proposal | None], describe: Callable[[SubnetConfig], tuple[Any, float]]
    ) -> tuple[Trial | None, bool]:
        """A point to score, and whether there may be one later."""
        self._put_back_abandoned()
        trials = self._trials()
        running = [trial for trial in trials if trial.state == TrialState.RUNNING]
        if any(_WORKER not in trial.user_attrs for trial in running):
            return None, True  # another process has just taken it, or died before signing
        if not any(trial.state == TrialState.WAITING for trial in trials):
            done = [trial for trial in trials if trial.state == TrialState.COMPLETE]
            enough = len(done) + len(running) >= self.limit
            proposal = None if enough else propose(Scored(done, _configs([*done, *running])))
            if proposal is None:
                return None, bool(running)
            numbers = self._choices.numbers(proposal.config)
            attrs = attributes(proposal, numbers, *describe(proposal.config))
            self.study.enqueue_trial({}, user_attrs=attrs)
        trial = self.study.ask(dict(self._choices.distributions))
        try:
            trial.set_user_attr(_TAKEN, time.time())
            trial.set_user_attr(_WORKER, self._me)
        except UpdateFinishedTrialError:  # this process stood still for so long that another put the point back
            return None, True
        if not self._superfluous(trial):
            return trial, True
        self._fail(trial.number)
        return None, True

    def put(self, trial: Trial, score: float, cost: float, metrics: Mapping[str, float]) -> None:
        """Writes down what a sub-network scored, unless it was put back meanwhile for another process to score."""
        try:
            trial.set_user_attr("metrics", dict(metrics))
            self.study.tell(trial, (score, cost), skip_if_finished=True)
        except UpdateFinishedTrialError:
            logger.info("point %d was given to another process, which scores it; this score is left out", trial.number)

    def give_back(self, trial: Trial) -> None:
        """Puts a sub-network back that was taken and not scored; it is the next to be taken."""
        self._again(trial.number, dict(trial.user_attrs))

    def _trials(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False)

    def _again(self, number: int, attrs: dict[str, Any]) -> None:
        if not self._fail(number):
            return
        for name in (_WORKER, _TAKEN):
            attrs.pop(name, None)
        self.study.enqueue_trial({}, user_attrs=attrs)

    def _fail(self, number: int) -> bool:
        """Marks a point as failed; False where another process ended it at the same moment."""
        try:
            self.study.tell(number, state=TrialState.FAIL, skip_if_finished=True)
        except UpdateFinishedTrialError:
            return False
        return True

    def _superfluous(self, trial: Trial) -> bool:
        """Whether an earlier trial has the same config, or there are enough earlier ones."""
        if CONFIG not in trial.user_attrs:  # nothing was waiting any more, so Optuna drew it at random
            return True
        earlier = [other for other in self._trials() if other.number < trial.number and other.state != TrialState.FAIL]
        return config_of(trial) in _configs(earlier) or len(earlier) >= self.limit

    def _put_back_abandoned(self) -> None:
        for trial in self._trials():
            if trial.state == TrialState.RUNNING and self._abandoned(trial):
                if CONFIG in trial.user_attrs:
                    logger.info("point %d is scored again: the process that took it is gone", trial.number)
                    self._again(trial.number, dict(trial.user_attrs))
                else:
                    self._fail(trial.number)

    def _abandoned(self, trial: FrozenTrial) -> bool:
        """Whether the process that took a point is gone."""
        worker = trial.user_attrs.get(_WORKER)
        if worker is None:
            return time.monotonic() - self._unsigned.setdefault(trial.number, time.monotonic()) > _NEW
        machine, process, started = str(worker).rsplit(":", 2)
        if machine != self._me.rsplit(":", 2)[0]:
            return time.time() - float(trial.user_attrs.get(_TAKEN, 0)) > _STALE
        # A process that asks for a point works on none, so one with its name is left from an interrupted search.
        return worker == self._me or _started(int(process)) != started


def _configs(trials: Sequence[FrozenTrial]) -> set[SubnetConfig]:
    return {config_of(trial) for trial in trials if CONFIG in trial.user_attrs}


def config_of(trial: FrozenTrial | Trial) -> SubnetConfig:
    """The sub-network of a trial."""
    return _parsed(trial.user_attrs[CONFIG])


_parsed = lru_cache(4096)(SubnetConfig.from_json)


def violation_of(trial: FrozenTrial) -> float:
    """By how much a scored sub-network is over the budget."""
    return float(trial.user_attrs[VIOLATION])


def _process_name() -> str:
    """Names this process on this machine; a later process with the same number has another name."""
    return f"{platform.node()}:{os.getpid()}:{_started(os.getpid())}"


def _started(process: int) -> str:
    """When a process of this machine started, in the kernel's units; "" where there is none, or no /proc."""
    try:
        text = Path(f"/proc/{process}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
    return text.rpartition(")")[2].split()[19]
