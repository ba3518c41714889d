"""The search: budgets, choices, fronts, proposals, and whole searches that are killed, shared and read back."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from hypothesis import given
from hypothesis import strategies as st
from paddle import nn

import search_runs
from models import batch, bert, ofa_of
from ofa_slim import OFA, Convert, RunConfig, SearchSpace, load_subnet, supernet
from ofa_slim.errors import IllegalSubnetError, SearchError
from ofa_slim.search import SearchConfig, SearchResult, stratified
from ofa_slim.search.budget import Budget
from ofa_slim.search.choices import Choices, rounded
from ofa_slim.search.front import hypervolume, ranks, spread
from ofa_slim.search.regressor import ScoreRegressor
from ofa_slim.search.result import Point
from search_runs import closeness, encoder

QUICK: dict[str, Any] = {"progress": False, "candidates": 24, "warm_up": 10}


def found(ofa: OFA, condition: Any = None, score: Any = None, **settings: Any) -> SearchResult:
    return ofa.search(score or closeness(ofa), condition, SearchConfig(**{**QUICK, "directory": None, **settings}))


# fronts


def dominated(one: tuple[float, float], others: list[tuple[float, float]]) -> bool:
    return any(s >= one[0] and c <= one[1] and (s, c) != one for s, c in others)


pairs = st.lists(st.tuples(st.integers(0, 6).map(float), st.integers(0, 6).map(float)), max_size=12)


@given(some=pairs)
def test_the_first_front_is_what_nothing_dominates(some: list[tuple[float, float]]) -> None:
    order = ranks(some)
    assert [rank == 0 for rank in order] == [not dominated(one, some) for one in some]
    left = [(one, rank) for one, rank in zip(some, order, strict=True) if rank > 0]
    inner = ranks([one for one, _ in left])
    assert [rank - 1 for _, rank in left] == inner


@given(some=pairs)
def test_the_hypervolume_is_the_area_that_is_dominated(some: list[tuple[float, float]]) -> None:
    cells = sum(any(s >= x + 1 and c <= y for s, c in some) for x in range(7) for y in range(7))
    assert hypervolume(some, (0.0, 7.0)) == cells


def test_a_spread_keeps_both_ends() -> None:
    costs = [(0.0, float(cost)) for cost in (5, 1, 3, 2, 4)]
    assert spread(range(5), costs, 3) == [1, 2, 0]
    assert spread(range(5), costs, 9) == list(range(5))


# choices


def space_of(depths: tuple[int, ...] = (2, 3)) -> SearchSpace:
    return encoder(depths=depths).search_space


@given(seed=st.integers(0, 1000))
def test_numbers_and_configs_are_two_ways_to_say_the_same(seed: int) -> None:
    choices = Choices(SPACE)
    config = choices.config(choices.sample(np.random.default_rng(seed)))
    assert choices.config(choices.numbers(config)) == config
    assert all(config[axis.name] in axis.choices for axis in SPACE.axes)


SPACE = space_of()


def test_configs_that_run_the_same_are_the_same() -> None:
    choices = Choices(SPACE)
    numbers = {axis.name: 1 for axis in choices.axes} | {"encoder.depth": 0}
    other = {**numbers, "encoder.1.heads": 2, "encoder.1.ffn": 0}  # of three layers, two keep the first and the last
    assert choices.config(numbers) == choices.config(other)
    assert choices.config(numbers) != choices.config({**numbers, "encoder.0.heads": 2})


def test_a_size_that_is_no_choice_is_refused() -> None:
    with pytest.raises(IllegalSubnetError, match=r"'encoder.0.ffn': size 7 is not one of"):
        Choices(SPACE).numbers(SPACE.complete({"encoder.0.ffn": 7}))


def test_uniform_configs_have_one_share() -> None:
    shares = [
        {
            round(config[axis.name] / axis.full, 6)
            for axis in SPACE.axes
            if axis.task == "width" and ".1." not in axis.name
        }
        for config in Choices(SPACE).uniform()
    ]
    assert all(len(share) == 1 for share in shares)
    assert len(shares) == 4 * 2
    assert next(Choices(SPACE).uniform()) == SPACE.largest()


@pytest.mark.parametrize("multiple", [1, 4, 8, 100])
def test_widths_can_be_multiples(multiple: int) -> None:
    for axis in rounded(SPACE, multiple).axes:
        if axis.task == "width" and multiple <= axis.size * axis.slots[0].unit:
            assert all(size * axis.slots[0].unit % multiple == 0 or size == axis.size for size in axis.choices)
        else:
            assert axis.choices == SPACE[axis.name].choices


# budgets


@pytest.mark.parametrize(
    ("condition", "said"),
    [
        ({"latency": 3.0}, "no cost 'latency'; did you mean 'latency_ms'"),
        ({"params": 0}, "'params' is 0, not a number above 0"),
        ({"params": True}, "is True"),
        ({"flops": float("nan")}, "is nan"),
        ({"flops": "many"}, "is 'many'"),
        (7, "condition is a int"),
    ],
)
def test_a_condition_that_means_nothing_is_refused(condition: Any, said: str) -> None:
    with pytest.raises(SearchError, match=said):
        Budget.of(condition)


@pytest.mark.parametrize(
    "wrong",
    [
        {"candidates": 0}, {"candidates": 2.5}, {"candidates": True}, {"survivors": 0}, {"warm_up": 3}, {"seed": -1},
        {"multiple_of": 0}, {"algorithm": "annealing"}, {"screen": 7}, {"latency": "table.json"}, {"winners": -1},
    ],
)  # fmt: skip
def test_a_search_config_that_means_nothing_is_refused(wrong: Mapping[str, Any]) -> None:
    with pytest.raises(SearchError, match=next(iter(wrong))):
        SearchConfig(**wrong)


def never(ofa: Any) -> float:
    raise AssertionError("something was scored")


@pytest.mark.parametrize(
    "condition", [{"params": 10}, {"params_ratio": 0.01, "flops_ratio": 0.9}, lambda config: False]
)
def test_an_impossible_budget_is_refused_before_anything_is_scored(condition: Any) -> None:
    with pytest.raises(SearchError, match=r"no sub-network has .*the cheapest one found has params.*encoder.0.heads"):
        found(encoder(), condition, never)


def test_nothing_to_choose_from_is_an_error() -> None:
    with pytest.raises(SearchError, match="nothing to search"):
        found(ofa_of(bert(), ratios=[1.0]), None, never)


# the regressor and the helper for rows


def test_the_regressor_learns_which_axes_matter() -> None:
    rng = np.random.default_rng(0)
    shares = rng.random((60, 5))
    scores = shares @ np.array([3.0, 1.0, 0.0, 0.5, 0.0]) + rng.normal(0, 0.05, 60)
    regressor = ScoreRegressor(shares, list(scores))
    assert regressor.rank_correlation > 0.9
    assert ScoreRegressor(shares, list(rng.random(60))).rank_correlation < 0.5
    assert np.isnan(ScoreRegressor(shares, [1.0] * 60).rank_correlation)
    low, high = regressor(np.array([[0.1] * 5, [0.9] * 5]))
    assert high - low == pytest.approx(0.8 * 4.5, abs=0.3)


@given(counts=st.lists(st.integers(1, 40), min_size=1, max_size=4), data=st.data())
def test_a_stratified_part_has_the_shares_of_the_whole(counts: list[int], data: st.DataObject) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    size = data.draw(st.integers(1, len(labels)))
    rows = stratified(labels, size)
    assert len(set(rows)) == size == len(rows)
    for label, count in enumerate(counts):
        assert abs((labels[rows] == label).sum() - size * count / len(labels)) < 1.01
    assert np.array_equal(rows, stratified(labels, size))


def test_more_rows_than_there_are_is_an_error() -> None:
    with pytest.raises(SearchError, match="not between 1 and the 3 rows"):
        stratified([0, 1, 1], 4)


# whole searches


def check(result: SearchResult, limit: float) -> None:
    configs = [point.config for point in result.points]
    assert len(set(configs)) == len(configs)
    inside = [point for point in result.points if point.costs["params_ratio"] <= limit]
    assert [point.within for point in result.points] == [point in inside for point in result.points]
    assert result.best.score == max(point.score for point in inside)
    for point in result.front:
        assert not any(other.score >= point.score and other.costs["params"] < point.costs["params"] for other in inside)
    searched = [point for point in result.points if point.kind in ("optimiser", "regressor")]
    assert searched
    assert all(point.within for point in searched), "what is over the budget is not scored"


@pytest.mark.parametrize("algorithm", ["nsga2", "tpe", "random"])
def test_a_search_finds_the_best_within_its_budget(algorithm: str) -> None:
    ofa = encoder()
    result = found(ofa, {"params_ratio": 0.75}, algorithm=algorithm, candidates=40)
    check(result, 0.75)
    assert len(result.points) == 40
    assert result.original is not None
    assert result.original.config == ofa.search_space.original()
    uniform = [point for point in result.uniform if point.within]
    assert uniform
    assert result.best.score >= max(point.score for point in uniform)
    assert any(point.kind == "regressor" and point.expected is not None for point in result.points)
    assert result.points[0].kind == "original", "the original and the uniform ones come first"
    assert ofa.net_config is None
    assert ofa.training
    (winner,) = result.winners
    assert winner.score == pytest.approx(winner.point.score, abs=1e-5)
    assert winner.point == result.best


def test_the_published_two_arguments_are_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ofa = ofa_of(bert(layers=1), ratios=[1.0, 0.5])
    seen = []

    def evaluate(ofa_model: Any) -> float:
        seen.append(not ofa_model.training and paddle.is_grad_enabled() is False)
        return -float(ofa_model(paddle.ones([1, 4], "int64")).abs().mean())

    result = ofa.search(evaluate, lambda config: config["encoder.0.ffn"] < 24)
    assert result.config["encoder.0.ffn"] == 12
    assert len(result.points) == 3, "a small space is scored as a whole, but for what is not accepted"
    assert all(seen)
    assert (tmp_path / "search" / "report.md").is_file()


def test_several_limits_hold_at_once() -> None:
    limits = {"flops_ratio": 0.7, "params_ratio": 0.8}
    result = found(encoder(), limits)
    assert result.cost == "flops"
    for point in result.points:
        assert point.within == all(point.costs[key] <= most for key, most in limits.items())
    smaller = result.best_within({"flops_ratio": 0.5})
    assert smaller.costs["flops_ratio"] <= 0.5
    with pytest.raises(SearchError, match="no scored sub-network"):
        result.best_within({"flops_ratio": 0.001})
    with pytest.raises(SearchError, match="'latency_ms' was not measured"):
        result.best_within({"latency_ms": 1.0})


def test_survivors_of_a_screening_are_scored_in_full() -> None:
    ofa = encoder()
    full, screened = closeness(ofa), []

    def rough(ofa_model: Any) -> dict[str, float]:
        screened.append(ofa_model.net_config)
        return {"closeness": full(ofa_model)["closeness"] - 1}

    result = found(ofa, {"params_ratio": 0.8}, full, screen=rough, survivors=5)
    final = [point for point in result.points if point.final]
    assert len(screened) == 24
    assert 5 <= len(final) < 24
    assert all(point.screened == pytest.approx(point.score - 1) for point in final)
    assert all(point.screened == point.score for point in result.points if not point.final)
    assert result.best in final
    assert {point.kind for point in final} >= {"original", "uniform"}


def test_one_of_several_scores_counts() -> None:
    ofa = encoder()
    score = closeness(ofa)

    def both(ofa_model: Any) -> dict[str, float]:
        value = score(ofa_model)["closeness"]
        return {"loss": -value, "closeness": value}

    result = found(ofa, {"params_ratio": 0.8}, both, metric="closeness")
    assert result.metric == "closeness"
    assert result.best.metrics["loss"] == -result.best.score
    with pytest.raises(SearchError, match="metric 'accuracy' is not among the scores of eval_func: loss, closeness"):
        found(encoder(), None, both, metric="accuracy")


@pytest.mark.parametrize(
    ("answer", "said"), [("good", "returned a str"), ({}, "no score"), (float("nan"), "nan as 'score' for sub-network")]
)
def test_a_score_that_is_none_is_an_error_and_the_search_goes_on_later(answer: Any, said: str, tmp_path: Path) -> None:
    ofa = encoder()
    with pytest.raises(SearchError, match=said):
        found(ofa, None, lambda ofa_model: answer, directory=tmp_path)
    result = found(ofa, None, directory=tmp_path, winners=0)
    assert len(result.points) == 24
    assert result.points[0].config == ofa.search_space.largest()


def test_a_directory_holds_the_report_and_the_winner(tmp_path: Path) -> None:
    ofa = encoder()
    result = found(ofa, {"params_ratio": 0.8}, directory=tmp_path / "found")
    files = {file.name for file in (tmp_path / "found").iterdir()}
    assert files == {"search.db", "search.db.lock", "report.md", "report.json", "pareto.png", "winner.png", "winners"}
    data = json.loads((tmp_path / "found" / "report.json").read_text(encoding="utf-8"))
    assert data["best"]["config"] == dict(result.config)
    assert len(data["points"]) == 24
    page = (tmp_path / "found" / "report.md").read_text(encoding="utf-8")
    assert f"`{result.config.to_json()}`" in page
    winner = load_subnet(tmp_path / "found" / "winners" / "1")
    with ofa.subnet(result.config), paddle.no_grad():
        assert float((winner(*batch()) - ofa.model(*batch())).abs().max()) < 1e-4
    # The same call reads everything back, and scores nothing.
    again = found(ofa, {"params_ratio": 0.8}, never, directory=tmp_path / "found", winners=0)
    assert again.points == result.points


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seed": 1}, "seed (0 there, 1 now)"),
        ({"algorithm": "tpe"}, "algorithm ('nsga2' there, 'tpe' now)"),
        ({"multiple_of": 8}, "choices"),
        ({"condition": {"params_ratio": 0.7}}, "condition ('params_ratio <= 0.8' there, 'params_ratio <= 0.7' now)"),
        ({"weights": True}, "weights"),
    ],
)
def test_another_search_in_the_same_place_is_refused(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    ofa = encoder()
    first = {"candidates": 3, "winners": 0, "directory": tmp_path}
    found(ofa, {"params_ratio": 0.8}, **first)
    if change.pop("weights", False):
        ofa.model.classifier.bias.set_value(ofa.model.classifier.bias + 1)
    with pytest.raises(SearchError, match="begun with other settings") as error:
        found(ofa, change.pop("condition", {"params_ratio": 0.8}), **{**first, **change})
    assert said in str(error.value)


def test_more_candidates_go_on_from_those_that_are_there(tmp_path: Path) -> None:
    ofa = encoder()
    few = found(ofa, None, directory=tmp_path, candidates=12, winners=0)
    many = found(ofa, None, directory=tmp_path, candidates=20, winners=0)
    assert list(many.points[:12]) == list(few.points)
    assert len(many.points) == 20


def test_a_storage_that_cannot_be_opened_is_named() -> None:
    with pytest.raises(SearchError, match=r"storage 'sqlite:////no/such/folder/x.db' cannot be opened"):
        found(encoder(), None, never, storage="sqlite:////no/such/folder/x.db")


def test_an_interrupted_search_returns_what_was_found_and_goes_on(tmp_path: Path) -> None:
    ofa = encoder()
    whole = found(ofa, None, directory=tmp_path / "whole", winners=0)
    score, calls = closeness(ofa), []

    def interrupted(ofa_model: Any) -> dict[str, float]:
        calls.append(1)
        if len(calls) == 15:
            raise KeyboardInterrupt
        return score(ofa_model)

    part = found(ofa, None, interrupted, directory=tmp_path / "part", winners=0)
    assert not part.complete
    assert list(part.points) == list(whole.points[:14])
    assert "interrupted" in (tmp_path / "part" / "report.md").read_text(encoding="utf-8")
    rest = found(ofa, None, interrupted, directory=tmp_path / "part", winners=0)
    assert rest.complete
    assert rest.points == whole.points


def run(folder: Path, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "ignore", search_runs.__file__, str(folder), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_killed_search_ends_as_one_that_was_not(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    whole = run(tmp_path / "whole")
    deaths = 0
    for count in (6, 17, 26):
        killed = run(tmp_path / "killed", count)
        _, errors = killed.communicate()
        assert killed.returncode == -signal.SIGKILL, errors
        deaths += 1
    last = run(tmp_path / "killed")
    expected, found_points = whole.communicate(), last.communicate()
    assert deaths == 3
    assert last.returncode == whole.returncode == 0, found_points[1]
    assert json.loads(found_points[0].splitlines()[-1]) == json.loads(expected[0].splitlines()[-1])


def test_two_processes_finish_one_search_with_no_point_lost_or_doubled(tmp_path: Path) -> None:
    workers = [run(tmp_path), run(tmp_path)]
    results = [worker.communicate() for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], results
    first, second = (json.loads(out.splitlines()[-1]) for out, _ in results)
    assert first == second, "both read the same result"
    configs = [json.dumps(config, sort_keys=True) for config, _ in first]
    assert len(configs) == len(set(configs)) == 30
    scored = [json.loads(file.read_text(encoding="utf-8")) for file in tmp_path.glob("scored-*.json")]
    assert len(scored) == 2
    both = [config for names in scored for config in names]
    assert sorted(both) == sorted(configs), "each was scored once, by one of them"
    assert all(names for names in scored), "both worked"


class Small(nn.Layer):
    """A convolutional network with batch norms."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2D(1, 8, 3, padding=1), nn.BatchNorm2D(8)
        self.second, self.head = nn.Conv2D(8, 8, 3, padding=1), nn.Linear(8, 2)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.head(self.second(nn.functional.relu(self.norm(self.first(x)))).mean(axis=[2, 3]))


def test_a_convolutional_network_is_searched_with_its_statistics_estimated() -> None:
    paddle.seed(0)
    images = paddle.randn([4, 1, 8, 8])
    model = Convert(supernet(kernel_size=(1, 3), expand_ratio=[0.25, 0.5, 1.0])).convert(Small())
    ofa = OFA(model, RunConfig(), example_inputs=images)
    before = ofa.model.norm._mean.numpy().copy()
    means: list[float] = []

    def score(ofa_model: Any) -> float:
        means.append(float(ofa_model.model.norm._mean.abs().sum()))
        return -float(ofa_model.model(images).abs().mean())

    result = found(ofa, {"flops_ratio": 0.5}, score, calibration=[images], input_shapes=[1, 1, 8, 8])
    assert all(mean > 0 for mean in means), "each was scored with statistics of its own"
    assert np.array_equal(ofa.model.norm._mean.numpy(), before), "the supernet's are as before"
    assert result.best.costs["flops_ratio"] <= 0.5
    assert {axis.task for axis in ofa.search_space.axes} == {"kernel_size", "width"}


def test_what_was_not_scored_within_the_budget_has_no_best() -> None:
    point = Point(SPACE.largest(), 1.0, {"params": 5.0}, "original", within=False)
    result = SearchResult([point], Budget({"params": 4}), "params", "score")
    assert result.front == []
    with pytest.raises(SearchError, match="nothing with params <= 4 has been scored yet"):
        result.best  # noqa: B018  that is what raises
