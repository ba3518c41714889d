"""Which sub-network is scored next: a pure function of those that were scored, and a seed."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial

from ofa_slim.errors import SearchError
from ofa_slim.search.budget import Budget, CostOf, repair
from ofa_slim.search.choices import ChoiceIndices, Choices
from ofa_slim.search.front import ranks, spread
from ofa_slim.search.regressor import ScoreRegressor
from ofa_slim.supernet.subnet_config import SubnetConfig

DIRECTIONS = ("maximize", "minimize")
ALGORITHMS = ("nsga2", "tpe", "random")

# Keys of a trial's attributes: by how much it is over the budget, and which choices were proposed for it.
EXCESS, NUMBERS = "excess", "numbers"

_GENERATION = 24  # sub-networks per generation of NSGA-II
_REFIT_EVERY = 10
_EXPLORE_EVERY = 4  # one of so many comes from the optimiser though the regressor is trained
_IMAGINED = 400  # sub-networks that the regressor judges for each batch of proposals
_MISSES = 200  # draws in a row that were all scored before: then there is nothing new


def sampler_of(algorithm: str, seed: int) -> BaseSampler:
    """One of Optuna's samplers; it keeps to the budget by its trials' attribute `EXCESS`."""

    def over(trial: FrozenTrial) -> Sequence[float]:
        return (trial.user_attrs.get(EXCESS, 0.0),)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # constraints are called experimental, since 2020
        if algorithm == "nsga2":
            return Generations(population_size=_GENERATION, seed=seed, constraints_func=over)
        if algorithm == "tpe":
            return TPESampler(multivariate=True, seed=seed, constraints_func=over)
        if algorithm == "random":
            return RandomSampler(seed=seed)
    raise SearchError(f"algorithm {algorithm!r} is not one of {', '.join(ALGORITHMS)}")


class Generations(NSGAIISampler):
    """NSGA-II; a trial whose choices were proposed elsewhere gets these, and its place in a generation all the same."""

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The choices that are inherited; none where they were proposed."""
        inherited = super().sample_relative(study, trial, search_space)
        return {} if NUMBERS in trial.user_attrs else inherited

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """One choice that is not inherited."""
        if NUMBERS in trial.user_attrs:
            return trial.user_attrs[NUMBERS][param_name]
        return super().sample_independent(study, trial, param_name, param_distribution)


@dataclass(frozen=True)
class Proposal:
    """A sub-network to score.

    Attributes:
        config: its sizes.
        kind: who asks for it: ``"uniform"``, ``"optimiser"`` or ``"regressor"``.
        expected: the score that the regressor expects; None where none was asked.
    """

    config: SubnetConfig
    kind: str
    expected: float | None = None


@dataclass(frozen=True)
class Scored:
    """What a proposal may depend on.

    Attributes:
        trials: those that were scored, in order.
        taken: the configs that were or are being scored, as JSON.
    """

    trials: Sequence[FrozenTrial]
    taken: Collection[str]


class Proposer:
    """Proposes sub-networks that were not scored yet, within the budget where any is.

    First the uniform ones come, whatever they cost. Then an optimiser proposes, and once `warm_up` are scored, three of
    four
    come from a regressor: an inner search over what it expects finds the front, and of that the best and some spread
        over
    the costs are taken. The next proposal depends on the scored ones and the seed alone, so a search that was killed
    goes on as if it had not been.

    Args:
        choices: the elastic axes.
        budget: what they may cost.
        cost_of: the costs of a config, without building it.
        cost: which of them is traded for the score.
        algorithm: of `ALGORITHMS`.
        seed: of all randomness.
        warm_up: how many scored sub-networks the regressor needs; None for no regressor.
        first: sub-networks that come before all others.
    """

    def __init__(
        self,
        choices: Choices,
        budget: Budget,
        cost_of: CostOf,
        cost: str,
        algorithm: str,
        seed: int,
        warm_up: int | None,
        first: Sequence[SubnetConfig] = (),
    ) -> None:
        sampler_of(algorithm, seed)
        self._choices = choices
        self._budget = budget
        self._cost_of = cost_of
        self._cost = cost
        self._algorithm = algorithm
        self._seed = seed
        self._warm_up = warm_up
        self._first = tuple(first)
        self._batch: tuple[int, list[tuple[SubnetConfig, float]]] = (-1, [])
        self.rank_correlation = float("nan")

    def __call__(self, scored: Scored) -> Proposal | None:
        """The next sub-network to score; None where all of the space has been."""
        for config in self._first:
            if config.to_json() not in scored.taken:
                return Proposal(config, "uniform")
        position = len(scored.trials)
        if self._warm_up is not None and position >= self._warm_up and position % _EXPLORE_EVERY:
            start = self._warm_up + (position - self._warm_up) // _REFIT_EVERY * _REFIT_EVERY
            for config, expected in self._expected_best(scored.trials[:start], scored.taken):
                if config.to_json() not in scored.taken:
                    return Proposal(config, "regressor", expected)
        rng = np.random.default_rng([self._seed, position])
        new = self._new(scored, self._drawn(scored.trials, rng), rng)
        return None if new is None else Proposal(new, "optimiser")

    def _new(self, scored: Scored, draws: Iterator[ChoiceIndices], rng: np.random.Generator) -> SubnetConfig | None:
        """The first of the draws, made to fit the budget, that was not scored."""
        if len(scored.taken) >= self._choices.count:
            return None
        for miss in range(_MISSES):
            drawn = next(draws)
            for _ in range(miss):  # ever further away where the optimiser keeps to what is known
                drawn = self._choices.mutated(drawn, rng)
            fits = repair(drawn, self._budget, self._choices, self._cost_of, rng)
            if fits is not None and (config := self._choices.config(fits)).to_json() not in scored.taken:
                return config
        return None

    def _drawn(self, trials: Sequence[FrozenTrial], rng: np.random.Generator) -> Iterator[ChoiceIndices]:
        """What the optimiser draws after some trials, one after the other."""
        study = _study(self._algorithm, int(rng.integers(2**31)))
        study.add_trials(trials)
        while True:
            trial = study.ask(dict(self._choices.distributions))
            drawn = dict(trial.params)
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
            yield drawn

    def _expected_best(self, trials: Sequence[FrozenTrial], taken: Collection[str]) -> list[tuple[SubnetConfig, float]]:
        """Sub-networks that a regressor trained on some trials expects much of, the next to score first."""
        if self._batch[0] != len(trials):
            regressor = self._trained(trials)
            self.rank_correlation = regressor.rank_correlation
            known = {self._choices.config(trial.params).to_json() for trial in trials}
            rng = np.random.default_rng([self._seed, len(trials), 1])
            self._batch = (len(trials), self._imagined_best(regressor, trials, known, rng))
        return self._batch[1]

    def _trained(self, trials: Sequence[FrozenTrial]) -> ScoreRegressor:
        configs = [self._choices.config(trial.params) for trial in trials]
        return ScoreRegressor(self._choices.encoded(configs), [trial.values[0] for trial in trials], self._seed)

    def _imagined_best(
        self,
        regressor: ScoreRegressor,
        trials: Sequence[FrozenTrial],
        known: Collection[str],
        rng: np.random.Generator,
    ) -> list[tuple[SubnetConfig, float]]:
        """An inner search over what the regressor expects, from the scored front on."""
        study = _study("nsga2", int(rng.integers(2**31)))
        inside = [trial for trial in trials if trial.user_attrs.get(EXCESS, 0.0) <= 0]
        order = ranks([_pair(trial) for trial in inside])
        best = sorted(range(len(inside)), key=order.__getitem__)[:_GENERATION]
        for one in best:
            study.enqueue_trial(inside[one].params)
        seen: dict[str, tuple[SubnetConfig, float, float]] = {}
        for _ in range(_IMAGINED):
            trial = study.ask(dict(self._choices.distributions))
            numbers = repair(trial.params, self._budget, self._choices, self._cost_of, rng) or trial.params
            config = self._choices.config(numbers)
            cost = self._cost_of(config)[self._cost]
            expected = float(regressor(self._choices.encoded([config]))[0])
            # What was made smaller to fit stands for what was drawn, so that its neighbours are drawn next.
            study.tell(trial, (expected, cost))
            seen[config.to_json()] = (config, expected, cost)
        new = [found for key, found in seen.items() if key not in known]
        return [(config, expected) for config, expected, _ in _best_and_spread(new)]


def _best_and_spread(
    found: Sequence[tuple[SubnetConfig, float, float]], count: int = _REFIT_EVERY
) -> list[tuple[SubnetConfig, float, float]]:
    """Of expected scores and costs, the best ones in turns with some spread over the cost, from the first fronts."""
    pairs = [(expected, cost) for _, expected, cost in found]
    order = ranks(pairs)
    by_rank = sorted(range(len(found)), key=lambda one: (order[one], -pairs[one][0]))
    front = by_rank[: max(count, sum(rank == 0 for rank in order))]
    top = sorted(by_rank, key=lambda one: -pairs[one][0])[:count]
    wide = spread(front, pairs, count)
    mixed = [one for pair in zip(top, wide, strict=False) for one in pair]
    return [found[one] for one in dict.fromkeys(mixed)]


def _study(algorithm: str, seed: int) -> optuna.Study:
    return optuna.create_study(
        storage=optuna.storages.InMemoryStorage(), directions=DIRECTIONS, sampler=sampler_of(algorithm, seed)
    )


def _pair(trial: FrozenTrial) -> tuple[float, float]:
    return trial.values[0], trial.values[1]


def attributes(
    proposal: Proposal, numbers: Mapping[str, int], costs: Mapping[str, float], excess: float
) -> dict[str, Any]:
    """What is written down with a proposal, for the optimiser and for the result."""
    return {
        "config": proposal.config.to_json(),
        NUMBERS: dict(numbers),
        "kind": proposal.kind,
        "expected": proposal.expected,
        "costs": dict(costs),
        EXCESS: excess,
    }
