"""The benchmarks' own arithmetic; what they measure is measured by running them."""

from __future__ import annotations

import json
import math
import sys

import numpy as np
import pytest

from alternation import alternate, ratio, report, table
from models import bert, ofa_of
from ofa_slim import OFA, SubnetConfig
from ofa_slim.search import Point
from optimisers import Memo, curve, error_of, paired, reached, shared
from paddleslim_env import PaddleSlimError, Worker
from time_to_accuracy import Stopwatch, meets, padded_lengths, steady

GOALS = {1.0: 0.4, 0.5: -3.7}
GOOD, BAD = {1.0: 0.4, 0.5: -3.0}, {1.0: 2.0, 0.5: -3.71}

# A worker that answers each length with half of it, and dies of a length of 13.
HALVES = """
import sys
print("ready", flush=True)
for line in sys.stdin:
    if line.strip() == "13":
        sys.exit(3)
    print(int(line) / 2, flush=True)
"""


def test_every_side_runs_once_per_round_and_each_goes_first_in_turn() -> None:
    ran: list[str] = []
    sides = {name: lambda name=name: ran.append(name) or float(len(ran)) for name in "abc"}
    seconds = alternate(sides, rounds=4)
    assert "".join(ran) == "abc" + "abc" + "bca" + "cab" + "abc"
    assert seconds == {"a": [4.0, 9.0, 11.0, 13.0], "b": [5.0, 7.0, 12.0, 14.0], "c": [6.0, 8.0, 10.0, 15.0]}


def test_a_ratio_is_that_of_the_same_round() -> None:
    seconds = {"a": [1.0, 10.0, 3.0], "b": [2.0, 10.0, 1.0]}
    assert ratio(seconds, "a", "b") == (1.0, 0.5, 3.0)
    with pytest.raises(ValueError, match="zip"):
        ratio({"a": [1.0], "b": [1.0, 2.0]}, "a", "b")


def test_the_report_ends_with_one_line_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    seconds = {"a": [1.0, 3.0, 2.0], "b": [2.0, 2.0, 2.0]}
    report("name", seconds, base="b", wanted={("a", "b"): "at most 1.00"}, rounds=3)
    printed = capsys.readouterr().out
    assert table(seconds, "b") in printed
    assert "a / b: 1.000 (0.500 to 1.500); wanted: at most 1.00" in printed
    assert json.loads(printed.splitlines()[-1]) == {
        "benchmark": "name",
        "rounds": 3,
        "seconds": {"a": 2.0, "b": 2.0},
        "ratios": {"a / b": [1.0, 0.5, 1.5]},
    }


def test_a_goal_is_met_at_its_value_and_by_every_width() -> None:
    assert meets(GOOD, GOALS)
    assert not meets(BAD, GOALS)
    assert not meets({1.0: math.nan, 0.5: 0.0}, GOALS)


@pytest.mark.parametrize(
    ("history", "expected"),
    [
        ([], False),
        ([GOOD], False),
        ([GOOD, GOOD], True),
        ([GOOD, BAD], False),
        ([GOOD, BAD, GOOD], False),
        ([GOOD, BAD, GOOD, GOOD], True),
        ([GOOD, GOOD, BAD], False),
    ],
)
def test_two_good_scores_in_a_row_are_needed(history: list[dict[float, float]], expected: bool) -> None:
    assert steady(history, GOALS) is expected


def test_the_stopwatch_stops_while_scores_are_taken_and_keeps_the_first_good_time() -> None:
    now = 0.0
    scores = iter([BAD, GOOD, GOOD, BAD, GOOD])

    def score() -> dict[float, float]:
        nonlocal now
        now += 100.0
        return next(scores)

    stopwatch = Stopwatch(score, every=2, goals=GOALS, clock=lambda: now)
    for step in range(1, 11):
        now += 1.0
        stopwatch.after_step(step)
    assert (stopwatch.reached, stopwatch.seconds) == (6.0, 10.0)
    assert stopwatch.history == [BAD, GOOD, GOOD, BAD, GOOD]


def test_batches_in_random_order_are_padded_to_their_longest_row() -> None:
    lengths = np.arange(1, 11)
    found = padded_lengths(lengths, 4, np.random.default_rng(0))
    order = np.random.default_rng(0).permutation(10)
    assert found == [max(lengths[order[:4]]), max(lengths[order[4:8]]), max(lengths[order[8:]])]
    assert max(found) == 10


@pytest.mark.slow
def test_a_worker_answers_with_seconds_and_its_death_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("paddleslim_env.SETTLE_SECONDS", 0.0)
    with Worker([sys.executable, "-c", HALVES]) as worker:
        assert [worker.step(8), worker.step(5)] == [4.0, 2.5]
        with pytest.raises(PaddleSlimError, match="ended with status 3"):
            worker.step(13)
    with pytest.raises(PaddleSlimError, match="ended with status 1"):
        Worker([sys.executable, "-c", "import sys; sys.exit(1)"])


def test_a_score_is_computed_once_per_config_whoever_asks() -> None:
    ofa = ofa_of(bert())
    computed: list[str] = []

    def score(model: OFA) -> dict[str, float]:
        computed.append(model.net_config.to_json())
        return {"score": float(len(computed))}

    memo = Memo(score)
    found = []
    for config in (ofa.search_space.largest(), ofa.search_space.smallest(), ofa.search_space.largest()):
        with ofa.subnet(config):
            found.append(memo(ofa)["score"])
    assert found == [1.0, 2.0, 1.0]
    assert (memo.asked, len(computed)) == (3, 2)
    with pytest.raises(RuntimeError, match="no sub-network is set"):
        memo(ofa)


def test_the_hypervolume_is_a_share_that_never_falls() -> None:
    tried = [(0.75, 0.5), (0.5, 0.1), (0.75, 0.75), (1.0, 1.0), (1.0, 0.9)]
    points = [Point(SubnetConfig({"a": 1}), score, {"flops_ratio": cost}, "optimiser", True) for score, cost in tried]
    np.testing.assert_allclose(curve(points, "flops_ratio"), [0.25, 0.25, 0.25, 0.25, 0.3])


def test_optimisers_are_compared_seed_by_seed() -> None:
    volumes = {"random search": np.array([[1.0, 2.0, 3.0], [3.0, 4.0, 5.0]]), "b": np.array([[1.5, 4.0, 6], [2, 4, 6]])}
    np.testing.assert_array_equal(paired(volumes, "b"), [[0.5, 2.0, 3.0], [-1.0, 0.0, 1.0]])
    assert shared(volumes) == 0
    assert shared({"a": np.array([[1.0, 2, 3, 9], [1, 2, 4, 9]]), "b": np.array([[1.0, 2, 3, 9]])}) == 2
    assert reached(volumes, "b") == 2
    assert reached({**volumes, "b": volumes["random search"] - 0.1}, "b") is None
    np.testing.assert_allclose(error_of(volumes["random search"]), [1.0, 1.0, 1.0])
