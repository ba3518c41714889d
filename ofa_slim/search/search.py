"""The search itself: it asks for sub-networks, has them scored, and exports the best."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial

from ofa_slim.base.checks import check_kind
from ofa_slim.base.progress import progress
from ofa_slim.errors import SearchError
from ofa_slim.search.allocated import allocated
from ofa_slim.search.budget import Budget, Condition, cheapest
from ofa_slim.search.choices import Choices, rounded
from ofa_slim.search.config import EvalFunc, SearchConfig
from ofa_slim.search.cost_kinds import kind_of
from ofa_slim.search.costs import costs_of
from ofa_slim.search.front import ranks
from ofa_slim.search.proposals import Proposal, Proposer, Scored
from ofa_slim.search.result import Point, SearchResult, Winner
from ofa_slim.search.scoring import RunSubnet, Scorer, statistics_kept
from ofa_slim.search.shared_study import SharedStudy, config_of, violation_of
from ofa_slim.search.study_storage import Lock, open_storage, quiet_optuna
from ofa_slim.search.summary import write_report
from ofa_slim.search.winners import chosen, export_winners
from ofa_slim.supernet.handle import Supernet
from ofa_slim.supernet.space import SearchSpace
from ofa_slim.supernet.subnet_config import SubnetConfig
from ofa_slim.train.teacher.keys import teacher_key

logger = logging.getLogger(__name__)

_LEAST_WARM_UP = 30
_FINAL = "-final"


def search(
    supernet: Supernet,
    eval_func: EvalFunc,
    condition: Condition = None,
    config: SearchConfig | None = None,
    run: RunSubnet | None = None,
) -> SearchResult:
    """Finds the best sub-network of a supernet within a budget; see `OFA.search`."""
    settings = SearchConfig() if config is None else config
    check_kind(settings, SearchConfig, "search_config", SearchError)
    return Search(supernet, eval_func, condition, settings, run).run()


class Search:
    """One search.

    Args:
        supernet: the supernet.
        eval_func: scores it with a sub-network set.
        condition: the budget.
        config: the settings of the search.
        run: runs a sub-network for `eval_func`; see `Scorer`.

    Raises: SearchError for a budget that no sub-network is within, before anything is scored.
    """

    def __init__(
        self,
        supernet: Supernet,
        eval_func: EvalFunc,
        condition: Condition,
        config: SearchConfig,
        run: RunSubnet | None = None,
    ) -> None:
        if not callable(eval_func):
            raise SearchError(f"eval_func is a {type(eval_func).__name__}, not a function of the OFA model")
        self.supernet = supernet
        self.eval_func = eval_func
        self.config = config
        self.budget = Budget.of(condition)
        self.directory = None if config.directory is None else Path(config.directory)
        self.choices = Choices(_space(supernet.space, config))
        if not self.choices.axes:
            raise SearchError("no axis of this model has more than one choice, so there is nothing to search")
        if self.directory is not None:
            self.directory.mkdir(parents=True, exist_ok=True)
        timed = self.budget.needs_latency or config.latency is not None
        self.costs = costs_of(supernet, self.choices.space, config, timed, self.directory)
        self.cost = kind_of(next(iter(self.budget.limits), "latency_ms" if timed else "params")).name
        cheapest(self.budget, self.choices, self.costs, np.random.default_rng(config.seed))
        self.scorer = Scorer(supernet, config.metric, config.calibration, config.calibration_batches, run)
        self.proposer = Proposer(
            self.choices,
            self.budget,
            self.costs,
            self.cost,
            config.algorithm,
            config.seed,
            self._warm_up(),
            self._first(),
        )

    def run(self) -> SearchResult:
        """Scores the candidates, then the survivors, exports the best, and writes a report into the directory."""
        with quiet_optuna(), statistics_kept(self.supernet.model):
            storage, lock = open_storage(self.config.storage, self.directory)
            screen = self.config.screen or self.eval_func
            candidates = self._study(storage, lock, "", self.config.candidates)
            final: SharedStudy | None = None
            complete = True
            try:
                self._fill(candidates, screen, self.proposer, "search")
                if self.config.screen is not None:
                    survivors = self._survivors(candidates.done())
                    final = self._study(storage, lock, _FINAL, len(survivors))
                    self._fill(final, self.eval_func, _in_order(survivors), "survivors")
            except KeyboardInterrupt:
                complete = False
                logger.warning("interrupted: this is what was found so far; the same call goes on")
            result = self._result(candidates.done(), [] if final is None else final.done(), complete)
        if complete and self.config.winners and result.front:
            result = replace(result, winners=self._winners(result))
        if self.directory is not None and result.points:
            write_report(result, self.choices.space, self.directory)
        return result

    def _winners(self, result: SearchResult) -> list[Winner]:
        timed = self.costs.table is not None
        points = chosen(result, self.config.winners)
        return export_winners(self.supernet, self.eval_func, self.scorer, points, self.config, timed, self.directory)

    def _study(self, storage: BaseStorage, lock: Lock, suffix: str, limit: int) -> SharedStudy:
        name = self.config.study_name + suffix
        return SharedStudy(storage, name, self.choices, limit, self._settings(), lock)

    def _settings(self) -> dict[str, Any]:
        """The settings that the points of a search depend on."""
        axes = repr([(axis.name, axis.choices) for axis in self.choices.axes])
        return {
            "choices": blake2b(axes.encode(), digest_size=8).hexdigest(),
            "weights": teacher_key(self.supernet.model).hex(),
            "condition": self.budget.describe(),
            "metric": self.config.metric,
            "screened": self.config.screen is not None,
            "algorithm": self.config.algorithm,
            "warm_up": self._warm_up(),
            "seed": self.config.seed,
            "times": None if self.costs.table is None else self.costs.table.key,
        }

    def _warm_up(self) -> int | None:
        if not self.config.regressor:
            return None
        return self.config.warm_up or max(_LEAST_WARM_UP, 2 * len(self.choices.axes))

    def _first(self) -> list[Proposal]:
        """The original, what curves allocate, and the uniform sub-networks; a quarter of the candidates at most."""
        original = self.supernet.space.original()
        kinds = {original: "uniform"}
        kinds |= dict.fromkeys(allocated(self.config.curves, self.choices, self.budget, self.costs), "allocated")
        kinds |= dict.fromkeys(self.choices.uniform(), "uniform")
        known = [Proposal(config, kind) for config, kind in kinds.items() if self._among(config)]
        return known[: max(1, self.config.candidates // 4)]

    def _among(self, config: SubnetConfig) -> bool:
        return all(config[axis.name] in axis.choices for axis in self.choices.axes)

    def describe(self, config: SubnetConfig) -> tuple[dict[str, float], float]:
        """The costs of a sub-network, and by how much it is over the budget."""
        costs = self.costs(config)
        return costs, self.budget.violation(config, costs)

    def _fill(
        self, study: SharedStudy, function: EvalFunc, propose: Callable[[Scored], Proposal | None], title: str
    ) -> None:
        """Scores sub-networks until the study is complete."""
        done = study.done()
        bar = progress(study.limit, title, "sub-networks", initial=len(done), show=self.config.progress)
        with bar:
            self._show_best(bar, done)
            while (trial := study.take(propose, self.describe)) is not None:
                config = config_of(trial)
                try:
                    metrics = self.scorer(function, config)
                except BaseException:
                    study.give_back(trial)
                    raise
                study.put(trial, self.scorer.score(metrics), self.costs(config)[self.cost], metrics)
                done = study.done()
                bar.update(len(done) - bar.n)
                self._show_best(bar, done)

    def _show_best(self, bar: Any, done: Sequence[FrozenTrial]) -> None:
        inside = [trial for trial in done if violation_of(trial) <= 0]
        words = []
        if inside:
            best = max(inside, key=lambda trial: trial.values[0])
            words.append(f"best {best.values[0]:.4g} at {self.cost} {best.values[1]:.4g}")
        correlation = self.proposer.rank_correlation
        if correlation == correlation:
            words.append(f"rank correlation of the regressor {correlation:.2f}")
        bar.set_postfix_str(", ".join(words))

    def _survivors(self, done: Sequence[FrozenTrial]) -> list[SubnetConfig]:
        """What was given first, and those within the budget that are nearest to the front."""
        given = [trial for trial in done if trial.user_attrs["kind"] in ("allocated", "uniform")]
        inside = [trial for trial in done if violation_of(trial) <= 0]
        order = ranks([(trial.values[0], trial.values[1]) for trial in inside])
        best = sorted(range(len(inside)), key=lambda one: (order[one], -inside[one].values[0]))
        chosen = [*given, *(inside[one] for one in best[: self.config.survivors])]
        return list(dict.fromkeys(config_of(trial) for trial in chosen))

    def _result(self, candidates: Sequence[FrozenTrial], final: Sequence[FrozenTrial], complete: bool) -> SearchResult:
        last = {config_of(trial): trial for trial in final}
        original = self.supernet.space.original()
        screened = self.config.screen is not None
        points = []
        for trial in candidates:
            attrs, config = trial.user_attrs, config_of(trial)
            scored = last.get(config, trial)
            points.append(
                Point(
                    config=config,
                    score=scored.values[0],
                    costs=attrs["costs"],
                    kind="original" if config == original else attrs["kind"],
                    within=violation_of(trial) <= 0,
                    metrics=scored.user_attrs["metrics"],
                    final=not screened or scored is not trial,
                    screened=trial.values[0] if screened else None,
                    expected=attrs["expected"],
                )
            )
        metric = self.scorer.metric or (next(iter(points[0].metrics)) if points else "score")
        return SearchResult(points, self.budget, self.cost, metric, complete, self.proposer.rank_correlation)


def _space(space: SearchSpace, config: SearchConfig) -> SearchSpace:
    """The axes with the choices that the search has."""
    if config.choices is not None:
        space = space.with_choices(config.choices)
    return space if config.multiple_of is None else rounded(space, config.multiple_of)


def _in_order(configs: Sequence[SubnetConfig]) -> Callable[[Scored], Proposal | None]:
    """Proposes some sub-networks one after the other."""

    def propose(scored: Scored) -> Proposal | None:
        return next((Proposal(config, "survivor") for config in configs if config not in scored.configs), None)

    return propose
