"""The walks of CONTRIBUTING.md, each done once."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import paddle
import pytest
from paddle import nn

from models import batch, bert, difference, ofa_of
from ofa_slim import OFA, Convert, supernet
from ofa_slim.export.formats import FORMATS, write_formats
from ofa_slim.export.formats.registry import Format, Source
from ofa_slim.search import Budget, SearchConfig, budget, cost_kinds
from ofa_slim.search.cost_kinds import CostKind
from ofa_slim.supernet.layers.elastic import FollowingLayer
from ofa_slim.supernet.spec import LayerSpec, register


class Scale(nn.Layer):
    """A layer type that the library does not know: one factor per channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = self.create_parameter([width])
        self._data_format = "NLC"

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return x * self.weight


class SuperScale(FollowingLayer, Scale):
    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return x * self.part("weight", {"out": self.followed(x)})


def test_a_new_layer_type_is_a_class_and_a_row() -> None:
    register(LayerSpec(Scale, SuperScale, params={"weight": ("out",)}, width="out", follows=True))
    model = nn.Sequential(nn.Linear(4, 8), Scale(8), nn.Linear(8, 2))
    model[1].weight.set_value(paddle.arange(1, 9, dtype="float32"))
    ofa = OFA(Convert(supernet(expand_ratio=[1.0, 0.5])).convert(model), example_inputs=paddle.ones([1, 4]))
    small = ofa.export(config=ofa.search_space.smallest(), input_shapes=[3, 4])
    assert type(small[1]) is Scale
    assert small[1].weight.tolist() == [1, 2, 3, 4]
    plain = nn.Sequential(nn.Linear(4, 4), Scale(4), nn.Linear(4, 2))
    plain.set_state_dict(small.state_dict())
    x = paddle.rand([3, 4])
    with ofa.subnet(ofa.search_space.smallest()):
        assert difference(ofa.model(x), plain(x)) < 1e-6


@pytest.mark.slow
def test_an_export_format_is_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(source: Source, folder: Path) -> None:
        shutil.copytree(source.done["inference"], folder, dirs_exist_ok=True)

    monkeypatch.setitem(FORMATS, "copy", Format("copy", "inference", write, "...", "inference"))
    rng = np.random.default_rng(0)
    ids = [rng.integers(1, 30, (32, length)) for length in (5, 9)]
    samples = [{"input_ids": some, "token_type_ids": np.zeros_like(some)} for some in ids]
    record = write_formats(bert(layers=1), tmp_path / "files", samples, ["copy"])
    assert record["formats"]["copy"]["difference"] < 1e-4
    assert json.loads((tmp_path / "files" / "export.json").read_text())["formats"].keys() == {"copy"}


def test_a_kind_of_cost_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    def heads(sources: object, config: dict[str, int]) -> float:
        return sum(size for name, size in config.items() if name.endswith(".heads"))

    kind = CostKind("heads", heads, "attention heads", "heads")
    monkeypatch.setitem(cost_kinds.COSTS, "heads", kind)
    for key in ("heads", "heads_ratio"):
        monkeypatch.setitem(cost_kinds._BY_KEY, key, kind)
    monkeypatch.setattr(budget, "KEYS", (*budget.KEYS, "heads", "heads_ratio"))
    assert Budget.of({"heads": 4}).describe() == "heads <= 4"
    ofa = ofa_of(bert(layers=2), ratios=[1.0, 0.5])
    found = ofa.search(
        lambda model: float(model.model(*batch()).mean()),
        {"heads_ratio": 0.75},
        SearchConfig(candidates=6, regressor=False, winners=0, directory=None, progress=False),
    )
    assert found.best.costs["heads"] <= 6
    assert {point.costs["heads"] for point in found.points} <= {4, 5, 6, 7, 8}
