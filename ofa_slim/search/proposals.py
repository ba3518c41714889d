"""Proposing the next sub-network to score: a pure function of those that were scored, and a seed."""

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

# Keys of a trial's attributes, as kept studies have them: its config, by how much it is over the budget, its choices.
CONFIG, VIOLATION, NUMBERS = "config", "excess", "numbers"

_GENERATION = 24  # sub-networks per generation of NSGA-II
_REFIT_EVERY = 10
_EXPLORE_EVERY = 4  # one of so many comes from the optimiser though the regressor is trained
_IMAGINED = 400  # sub-networks that the regressor judges for each batch of proposals
_MISSES = 200  # draws in a row that were all scored before: then there is nothing new


def sampler_of(algorithm: str, seed: int) -> BaseSampler:
    """One of Optuna's samplers; it keeps to the budget by its trials' attribute `VIOLATION`."""

    def over(trial: FrozenTrial) -> Sequence[float]:
        return (trial.user_attrs.get(VIOLATION, 0.0),)

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
    """NSGA-II that accepts trials proposed elsewhere and counts them in its generations."""

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
        kind: what proposes it: ``"allocated"``, ``"uniform"``, ``"optimiser"`` or ``"regressor"``.
        expected: the score that the regressor predicts; None from the others.
    """

    config: SubnetConfig
    kind: str
    expected: float | None = None


@dataclass(frozen=True)
class Scored:
    """The sub-networks that a proposal depends on.

    Attributes:
        trials: those that were scored, in order.
        configs: the sub-networks that were or are being scored.
    """

    trials: Sequence[FrozenTrial]
    configs: Collection[SubnetConfig]


class Proposer:
    """Proposes sub-networks that were not scored yet, within the budget as far as possible.

    Given ones come first, whatever they cost. Then an optimiser proposes. Once `warm_up` are scored, three of
    four come from a regressor: an inner search finds the front of its predictions, and the best of that front and some
    spread over its costs are proposed. A proposal depends on the scored ones and the seed alone, so a search that was
    killed continues as if it had not been.

    Args:
        choices: the elastic axes.
        budget: the limits of their costs.
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
        first: Sequence[Proposal] = (),
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
        for proposal in self._first:
            if proposal.config not in scored.configs:
                return proposal
        position = len(scored.trials)
        if self._warm_up is not None and position >= self._warm_up and position % _EXPLORE_EVERY:
            start = self._warm_up + (position - self._warm_up) // _REFIT_EVERY * _REFIT_EVERY
            for config, expected in self._expected_best(scored.trials[:start]):
                if config not in scored.configs:
                    return Proposal(config, "regressor", expected)
        rng = np.random.default_rng([self._seed, position])
        new = self._new(scored, self._drawn(scored.trials, rng), rng)
        return None if new is None else Proposal(new, "optimiser")

    def _new(self, scored: Scored, draws: Iterator[ChoiceIndices], rng: np.random.Generator) -> SubnetConfig | None:
        """The first of the draws, made to fit the budget, that was not scored."""
        if len(scored.configs) >= self._choices.count:
            return None
        for miss in range(_MISSES):
            drawn = next(draws)
            for _ in range(miss):  # ever further away where the optimiser keeps to what is known
                drawn = self._choices.mutated(drawn, rng)
            fits = repair(drawn, self._budget, self._choices, self._cost_of, rng)
            if fits is not None and (config := self._choices.config(fits)) not in scored.configs:
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

    def _expected_best(self, trials: Sequence[FrozenTrial]) -> list[tuple[SubnetConfig, float]]:
        """The sub-networks that a regressor trained on some trials predicts to be best, the next to score first."""
        if self._batch[0] != len(trials):
            configs = [self._choices.config(trial.params) for trial in trials]
            scores = [trial.values[0] for trial in trials]
            regressor = ScoreRegressor(self._choices.encoded(configs), scores, self._seed)
            self.rank_correlation = regressor.rank_correlation
            rng = np.random.default_rng([self._seed, len(trials), 1])
            self._batch = (len(trials), self._imagined_best(regressor, trials, set(configs), rng))
        return self._batch[1]

    def _imagined_best(
        self,
        regressor: ScoreRegressor,
        trials: Sequence[FrozenTrial],
        known: Collection[SubnetConfig],
        rng: np.random.Generator,
    ) -> list[tuple[SubnetConfig, float]]:
        """An inner search over the regressor's predictions, starting from the scored front."""
        study = _study("nsga2", int(rng.integers(2**31)))
        inside = [trial for trial in trials if trial.user_attrs.get(VIOLATION, 0.0) <= 0]
        order = ranks([_pair(trial) for trial in inside])
        best = sorted(range(len(inside)), key=order.__getitem__)[:_GENERATION]
        for one in best:
            study.enqueue_trial(inside[one].params)
        seen: dict[SubnetConfig, tuple[float, float]] = {}
        for _ in range(_IMAGINED):
            trial = study.ask(dict(self._choices.distributions))
            numbers = repair(trial.params, self._budget, self._choices, self._cost_of, rng) or trial.params
            config = self._choices.config(numbers)
            cost = self._cost_of(config)[self._cost]
            expected = float(regressor(self._choices.encoded([config]))[0])
            # The sub-network that was made smaller to fit stands for the drawn one, so its neighbours are drawn next.
            study.tell(trial, (expected, cost))
            seen[config] = (expected, cost)
        new = [(config, *pair) for config, pair in seen.items() if config not in known]
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
    proposal: Proposal, numbers: Mapping[str, int], costs: Mapping[str, float], violation: float
) -> dict[str, Any]:
    """The attributes of a proposal's trial, for the optimiser and for the result."""
    return {
        CONFIG: proposal.config.to_json(),
        NUMBERS: dict(numbers),
        "kind": proposal.kind,
        "expected": proposal.expected,
        "costs": dict(costs),
        VIOLATION: violation,
    }
