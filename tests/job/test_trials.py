"""Sizes of all blocks and of fewer, tried before one of them goes on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import paddle
import pytest
from paddle import nn

import ofa_slim
from families import FAMILIES, inputs
from models import bert
from ofa_slim import Finish
from ofa_slim.closed_form import Curve
from ofa_slim.closed_form.sub_layers import sub_layers
from ofa_slim.errors import CalibrationError
from ofa_slim.job import trials, without_training
from ofa_slim.job.trials import at_each_depth


def curves_of(model: nn.Layer, least: int) -> list[Curve]:
    """Curves whose losses say that every block matters alike."""
    found = []
    for part in sub_layers(model):
        sizes = tuple(dict.fromkeys([least, *range(1, part.axis.size + 1)]))
        found.append(Curve(part.axis.name, sizes, tuple(1 - size / part.axis.size for size in sizes)))
    return found


def units(sizes: Mapping[str, int]) -> float:
    return sum(sizes.values())


def test_sizes_of_fewer_blocks_spread_evenly_and_fill_the_budget() -> None:
    model = bert(layers=6)
    curves, parts = curves_of(model, 0), sub_layers(model)
    found = at_each_depth(curves, parts, units, 60.0)
    kept = [sorted({int(name.split(".")[-2]) for name, size in sizes.items() if size}) for sizes in found]
    assert kept[1:] == [[0, 2, 3, 5], [0, 2, 5]]
    assert all(50 < units(sizes) <= 60 for sizes in found)
    assert len(at_each_depth(curves, parts, units, 1000.0)) == 3, "the largest of each"
    with pytest.raises(CalibrationError, match="more than the budget"):
        at_each_depth(curves_of(model, 1), parts, units, 3.0)


def test_without_parts_that_may_go_there_is_nothing_to_try() -> None:
    model = bert(layers=6)
    assert len(at_each_depth(curves_of(model, 1), sub_layers(model), units, 60.0)) == 1


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many batches each trial trains on; the second comes nearest to the original."""
    found: list[int] = []

    def train(small: nn.Layer, original: nn.Layer, loader: list[Any], *others: Any) -> nn.Layer:
        found.append(len(loader))
        if len(found) % 3 != 2:
            with paddle.no_grad():
                small.classifier.weight.set_value(paddle.zeros_like(small.classifier.weight))
        return small

    monkeypatch.setattr(trials, "finished", train)
    return found


def test_the_sizes_that_learn_best_go_on_and_are_kept(tried: list[int], tmp_path: Path) -> None:
    model, batches = bert(layers=6, classes=2), [inputs("bert", 8, 9, seed) for seed in range(4)]

    def compressed(folder: Path | None, **how: Any) -> dict[str, int]:
        finish = Finish(learning_rate=1e-4, **how)
        call = {"budget": {"flops_ratio": 0.4}, "omit": True, "finish": finish, "directory": folder}
        return dict(ofa_slim.compress(model, batches, **call).report.config)

    chosen = compressed(tmp_path, trial_steps=3)
    assert tried == [3, 3, 3]
    known = json.loads((tmp_path / "trials.json").read_text(encoding="utf-8"))
    assert known["chosen"] == 1
    assert chosen == known["configs"][1]
    assert compressed(tmp_path, trial_steps=3) == chosen
    assert len(tried) == 3, "what was chosen is not tried again"
    assert compressed(None, trial_steps=0) == known["configs"][0]
    assert len(tried) == 3
    compressed(tmp_path, trial_steps=2)
    assert tried[3:] == [2, 2, 2], "other steps may choose otherwise"
    for damage in ("{", "[]", '{"configs": []}'):
        (tmp_path / "trials.json").write_text(damage, encoding="utf-8")
        with pytest.raises(CalibrationError, match=r"trials.json is damaged .*delete it"):
            compressed(tmp_path, trial_steps=3)


def test_one_candidate_is_not_tried(tried: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(without_training, "finished", lambda small, *others: small)
    batches = [inputs("bert", 8, 9, seed) for seed in range(4)]
    ofa_slim.compress(FAMILIES["bert"](), batches, budget={"flops_ratio": 0.5}, finish=Finish())
    assert not tried
