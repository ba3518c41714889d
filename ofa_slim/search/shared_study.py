"""The scored sub-networks of a search in an Optuna study, which several processes may fill together.

Processes take turns in taking points. Where their storage has no turns but transactions, a point is written down as
waiting before anybody works on it, and whoever takes it gives it up where an earlier trial has the same config, or the
search has enough without it: trials are numbered by the storage, so exactly one process keeps each config. A point
whose process has died is put back.
"""

from __future__ import annotations

import logging
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, Trial, TrialState

from ofa_slim.base.settings import differences
from ofa_slim.errors import SearchError
from ofa_slim.search.choices import Choices
from ofa_slim.search.proposals import DIRECTIONS, EXCESS, Proposal, Scored, attributes, sampler_of
from ofa_slim.search.study_storage import FileLock
from ofa_slim.supernet.subnet_config import SubnetConfig

logger = logging.getLogger(__name__)

_SETTINGS = "settings"
_WORKER = "worker"
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
        turn: what processes that share the storage take turns by.

    Raises: SearchError that names the settings that differ.
    """

    def __init__(
        self,
        storage: BaseStorage,
        name: str,
        choices: Choices,
        limit: int,
        settings: Mapping[str, Any],
        turn: FileLock = nullcontext,
    ) -> None:
        self._choices = choices
        self.limit = limit
        self._turn = turn
        self._me = _process_name()
        with turn():
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
            with self._turn():
                trial, more = self._taken(propose, describe)
            if trial is not None or not more:
                return trial
            time.sleep(_WAIT)

    def _taken(
        self, propose: Callable[[Scored], Proposal | None], describe: Callable[[SubnetConfig], tuple[Any, float]]
    ) -> tuple[Trial | None, bool]:
        """A point to score, or whether one may be there later."""
        self._put_back_abandoned()
        trials = self._trials()
        running = [trial for trial in trials if trial.state == TrialState.RUNNING]
        if any(_WORKER not in trial.user_attrs for trial in running):
            return None, True  # somebody has just taken it, or died before signing
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
        trial.set_user_attr(_WORKER, self._me)
        if not self._superfluous(trial):
            return trial, True
        self.study.tell(trial, state=TrialState.FAIL)
        return None, True

    def put(self, trial: Trial, score: float, cost: float, metrics: Mapping[str, float]) -> None:
        """Writes down what a sub-network scored."""
        trial.set_user_attr("metrics", dict(metrics))
        self.study.tell(trial, (score, cost))

    def give_back(self, trial: Trial) -> None:
        """Puts a sub-network back that was taken and not scored; it is the next to be taken."""
        self._again(trial.number, dict(trial.user_attrs))

    def _trials(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False)

    def _again(self, number: int, attrs: dict[str, Any]) -> None:
        self.study.tell(number, state=TrialState.FAIL, skip_if_finished=True)
        attrs.pop(_WORKER, None)
        self.study.enqueue_trial({}, user_attrs=attrs)

    def _superfluous(self, trial: Trial) -> bool:
        """Whether an earlier trial has the same config, or there are enough earlier ones."""
        config = trial.user_attrs.get("config")
        if config is None:  # nothing was waiting any more when it was asked for, so it was drawn at random
            return True
        earlier = [other for other in self._trials() if other.number < trial.number and other.state != TrialState.FAIL]
        return config in _configs(earlier) or len(earlier) >= self.limit

    def _put_back_abandoned(self) -> None:
        for trial in self._trials():
            if trial.state == TrialState.RUNNING and _abandoned(trial, self._me):
                if "config" in trial.user_attrs:
                    logger.info("point %d is scored again: the process that took it is gone", trial.number)
                    self._again(trial.number, dict(trial.user_attrs))
                else:
                    self.study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)


def _configs(trials: Sequence[FrozenTrial]) -> set[str]:
    return {trial.user_attrs["config"] for trial in trials if "config" in trial.user_attrs}


def excess_of(trial: FrozenTrial) -> float:
    """By how much a scored sub-network is over the budget."""
    return float(trial.user_attrs[EXCESS])


def _process_name() -> str:
    """Names this process on this machine; a later process with the same number has another name."""
    return f"{platform.node()}:{os.getpid()}:{_started(os.getpid())}"


def _abandoned(trial: FrozenTrial, me: str) -> bool:
    """Whether the process that took a point is gone."""
    age = (datetime.now() - trial.datetime_start).total_seconds() if trial.datetime_start else 0.0
    worker = trial.user_attrs.get(_WORKER)
    if worker is None:
        return age > _NEW
    machine, process, started = str(worker).rsplit(":", 2)
    if machine != me.rsplit(":", 2)[0]:
        return age > _STALE
    # Who asks for a point works on none, so one of its own was left behind by an interrupted search.
    return worker == me or _started(int(process)) != started


def _started(process: int) -> str:
    """When a process of this machine started, in the kernel's units; "" where there is none, or no /proc."""
    try:
        text = Path(f"/proc/{process}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
    return text.rpartition(")")[2].split()[19]
