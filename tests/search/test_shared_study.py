"""Points that several processes want to put back, sign or score at the same moment."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial, Trial, TrialState

from ofa_slim.search.choices import Choices
from ofa_slim.search.proposals import Proposal, Scored
from ofa_slim.search.shared_study import SharedStudy, _started, config_of
from search_runs import encoder

CHOICES = Choices(encoder().search_space)
LIMIT = 5


class Overtaken(InMemoryStorage):
    """A storage in which another process does something just after a look at the trials, or before a change to one."""

    def __init__(self) -> None:
        super().__init__()
        self.after_look: Callable[[], None] | None = None
        self.first: Callable[[], None] | None = None

    def _let_the_other_go(self) -> None:
        first, self.first = self.first, None
        if first is not None:
            first()

    def get_all_trials(self, *arguments: Any, **settings: Any) -> list[FrozenTrial]:
        trials = super().get_all_trials(*arguments, **settings)
        after_look, self.after_look = self.after_look, None
        if after_look is not None:
            after_look()
        return trials

    def set_trial_state_values(self, *arguments: Any, **settings: Any) -> bool:
        self._let_the_other_go()
        return super().set_trial_state_values(*arguments, **settings)

    def set_trial_user_attr(self, *arguments: Any, **settings: Any) -> None:
        self._let_the_other_go()
        super().set_trial_user_attr(*arguments, **settings)


def two_processes(storage: InMemoryStorage) -> tuple[SharedStudy, SharedStudy]:
    """The study as two processes of this machine see it."""
    mine, other = (SharedStudy(storage, "shared", CHOICES, LIMIT, {}) for _ in range(2))
    other._me = mine._me.replace(f":{os.getpid()}:{_started(os.getpid())}", f":{os.getppid()}:{_started(os.getppid())}")
    return mine, other


def take(study: SharedStudy) -> Trial | None:
    """The next of configs that differ in one axis after the other."""

    def propose(scored: Scored) -> Proposal:
        axes = [axis for axis in CHOICES.axes if axis.name.endswith("ffn")]
        configs = [CHOICES.config({axis.name: int(axis is one) for axis in CHOICES.axes}) for one in axes]
        more = [CHOICES.config({axis.name: 1 + int(axis is one) for axis in CHOICES.axes}) for one in axes]
        return Proposal(next(config for config in [*configs, *more] if config not in scored.configs), "optimiser")

    return study.take(propose, lambda config: ({}, 0.0))


def abandoned(study: SharedStudy, storage: InMemoryStorage) -> Trial:
    """A point that a process took which is gone."""
    trial = take(study)
    assert trial is not None
    machine = str(trial.user_attrs["worker"]).rsplit(":", 2)[0]
    storage.set_trial_user_attr(trial._trial_id, "worker", f"{machine}:{2**22 + 1}:1")
    return trial


def finish(study: SharedStudy) -> list[str]:
    while (trial := take(study)) is not None:
        study.put(trial, 1.0, 1.0, {})
    return [config_of(trial).to_json() for trial in study.done()]


@pytest.mark.parametrize("moment", ["before it looks", "after it looked", "before it writes"])
def test_a_point_that_two_put_back_is_scored_once(moment: str) -> None:
    storage = Overtaken()
    study, other = two_processes(storage)
    lost = abandoned(study, storage)
    taken: list[Trial | None] = []
    if moment == "before it looks":
        taken.append(take(other))
    else:
        setattr(storage, {"after it looked": "after_look"}.get(moment, "first"), lambda: taken.append(take(other)))
    mine = take(study)
    (others,) = taken
    assert mine is not None
    assert others is not None
    assert config_of(others) == config_of(lost) != config_of(mine)
    for trial, its in ((mine, study), (others, other)):
        its.put(trial, 1.0, 1.0, {})
    configs = finish(study)
    assert len(configs) == len(set(configs)) == LIMIT


@pytest.mark.parametrize("moment", ["before it is known", "while it is written"])
def test_a_score_of_a_point_that_was_put_back_is_left_out(moment: str) -> None:
    storage = Overtaken()
    study, other = two_processes(storage)
    late = abandoned(study, storage)  # it is not gone, but stood still for an hour
    if moment == "before it is known":
        again = take(other)
        study.put(late, 7.0, 1.0, {})
    else:
        taken: list[Trial | None] = []
        storage.first = lambda: taken.append(take(other))
        study.put(late, 7.0, 1.0, {})
        (again,) = taken
    assert again is not None
    other.put(again, 1.0, 1.0, {})
    assert [trial.values[0] for trial in study.done()] == [1.0]
    assert len(set(finish(study))) == LIMIT


def test_a_process_that_stands_still_before_it_signs_takes_another_point(monkeypatch: pytest.MonkeyPatch) -> None:
    storage = Overtaken()
    study, other = two_processes(storage)

    def put_back() -> None:
        (unsigned,) = [trial for trial in other.study.get_trials() if trial.state == TrialState.RUNNING]
        other.study.tell(unsigned.number, state=TrialState.FAIL)

    ask = study.study.ask

    def asked(*arguments: Any) -> Trial:
        trial = ask(*arguments)
        if trial.number == 0:
            storage.first = put_back  # in the moment between taking and signing
        return trial

    monkeypatch.setattr(study.study, "ask", asked)
    trial = take(study)
    assert trial is not None
    assert trial.number > 0
    study.put(trial, 1.0, 1.0, {})
    assert len(set(finish(study))) == LIMIT
