"""Budgets, proposals, and whole searches that are interrupted, continued and read back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from hypothesis import given
from hypothesis import strategies as st
from paddle import nn

from models import batch, bert, ofa_of
from ofa_slim import OFA, Convert, RunConfig, load_subnet, supernet
from ofa_slim.errors import SearchError
from ofa_slim.search import SearchConfig, SearchResult, stratified
from ofa_slim.search.budget import Budget
from ofa_slim.search.regressor import ScoreRegressor
from ofa_slim.search.result import Point
from search_runs import QUICK, closeness, encoder, found


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
def test_an_invalid_condition_is_refused(condition: Any, said: str) -> None:
    with pytest.raises(SearchError, match=said):
        Budget.of(condition)


@pytest.mark.parametrize(
    "wrong",
    [
        {"candidates": 0}, {"candidates": 2.5}, {"candidates": True}, {"survivors": 0}, {"warm_up": 3}, {"seed": -1},
        {"multiple_of": 0}, {"algorithm": "annealing"}, {"screen": 7}, {"latency": "table.json"}, {"winners": -1},
    ],
)  # fmt: skip
def test_an_invalid_search_config_is_refused(wrong: Mapping[str, Any]) -> None:
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


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["nsga2", "tpe", "random"])
def test_a_search_finds_the_best_within_its_budget(algorithm: str) -> None:
    ofa = encoder()
    result = found(ofa, {"params_ratio": 0.75}, algorithm=algorithm, candidates=24)
    check(result, 0.75)
    assert len(result.points) == 24
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


@pytest.mark.slow
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
    ofa = encoder()
    whole = sum(parameter.size for parameter in ofa.export(config=ofa.search_space.original()).parameters())
    limits = {"flops_ratio": 0.7, "size_mb": 0.8 * 4 * whole / 1e6}
    result = found(ofa, limits)
    assert result.cost == "flops"
    assert result.best.costs["size_ratio"] == pytest.approx(result.best.costs["params_ratio"])
    assert result.best.costs["size_ratio"] <= 0.8
    for point in result.points:
        assert point.within == all(point.costs[key] <= most for key, most in limits.items())
        assert (
            point.costs["size_mb"] / 4 < point.costs["size_int8_mb"] < point.costs["size_mb"] < point.costs["memory_mb"]
        )
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
    assert len(screened) == QUICK["candidates"]
    assert 5 <= len(final) < QUICK["candidates"]
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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("answer", "said"), [("good", "returned a str"), ({}, "no score"), (float("nan"), "nan as 'score' for sub-network")]
)
def test_an_invalid_score_is_an_error_and_the_search_goes_on_later(answer: Any, said: str, tmp_path: Path) -> None:
    ofa = encoder()
    with pytest.raises(SearchError, match=said):
        found(ofa, None, lambda ofa_model: answer, directory=tmp_path, candidates=3)
    result = found(ofa, None, directory=tmp_path, candidates=3, winners=0)
    assert len(result.points) == 3
    assert result.points[0].config == ofa.search_space.largest()


@pytest.mark.slow
def test_a_directory_holds_the_report_and_the_winner(tmp_path: Path) -> None:
    ofa = encoder()
    result = found(ofa, {"params_ratio": 0.8}, directory=tmp_path / "found")
    files = {file.name for file in (tmp_path / "found").iterdir()}
    assert files == {"search.db", "search.db.lock", "report.md", "report.json", "pareto.png", "winner.png", "winners"}
    data = json.loads((tmp_path / "found" / "report.json").read_text(encoding="utf-8"))
    assert data["best"]["config"] == dict(result.config)
    assert len(data["points"]) == QUICK["candidates"]
    page = (tmp_path / "found" / "report.md").read_text(encoding="utf-8")
    assert f"`{result.config.to_json()}`" in page
    winner = load_subnet(tmp_path / "found" / "winners" / "1")
    with ofa.subnet(result.config), paddle.no_grad():
        assert float((winner(*batch()) - ofa.model(*batch())).abs().max()) < 1e-4
    # The same call reads everything back, and scores nothing.
    again = found(ofa, {"params_ratio": 0.8}, never, directory=tmp_path / "found", winners=0)
    assert again.points == result.points


@pytest.mark.slow
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


@pytest.mark.slow
def test_more_candidates_go_on_from_those_that_are_there(tmp_path: Path) -> None:
    ofa = encoder()
    few = found(ofa, None, directory=tmp_path, candidates=10, winners=0)
    many = found(ofa, None, directory=tmp_path, candidates=14, winners=0)
    assert list(many.points[:10]) == list(few.points)
    assert len(many.points) == 14


def test_a_storage_that_cannot_be_opened_is_named() -> None:
    with pytest.raises(SearchError, match=r"storage 'sqlite:////no/such/folder/x.db' cannot be opened"):
        found(encoder(), None, never, storage="sqlite:////no/such/folder/x.db")


@pytest.mark.slow
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
    point = Point(encoder().search_space.largest(), 1.0, {"params": 5.0}, "original", within=False)
    result = SearchResult([point], Budget({"params": 4}), "params", "score")
    assert result.front == []
    with pytest.raises(SearchError, match="nothing with params <= 4 has been scored yet"):
        result.best  # noqa: B018  that is what raises
