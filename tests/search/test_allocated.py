"""What measured curves allocate is where a search begins: within the budget, at every depth, and it is scored."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from models import bert, ofa_of
from ofa_slim import OFA, RunConfig
from ofa_slim.closed_form import Curve
from ofa_slim.errors import SearchError
from ofa_slim.measure.cost import CostModel
from ofa_slim.search import SearchConfig
from ofa_slim.search.allocated import allocated
from ofa_slim.search.budget import Budget
from ofa_slim.search.choices import Choices
from ofa_slim.search.costs import Costs
from search_runs import closeness

LAYERS = 4
FULL = {"heads": 4, "ffn": 24}


def deep(depths: list[int] | None = None) -> OFA:
    run = RunConfig(elastic_depth=depths or [LAYERS])
    return ofa_of(bert(layers=LAYERS), ratios=[1.0, 0.75, 0.5, 0.25], run_config=run)


def curves(weight: Mapping[int, float]) -> list[Curve]:
    """Losses that grow with what is cut of a layer, times the layer's weight."""
    found = []
    for layer in range(LAYERS):
        for part, full in FULL.items():
            sizes = tuple(sorted({max(1, full * quarter // 4) for quarter in range(1, 5)}))
            losses = tuple(weight[layer] * (1 - size / full) ** 2 for size in sizes)
            found.append(Curve(f"encoder.{layer}.{part}", sizes, losses))
    return found


def costs_of(ofa: OFA) -> Costs:
    return Costs(CostModel.of(ofa.supernet), None, ofa.search_space.largest())


@pytest.mark.parametrize("share", [0.9, 0.7, 0.5])
@pytest.mark.parametrize("depths", [[4], [2, 3, 4]])
def test_what_matters_keeps_its_size_within_the_budget(share: float, depths: list[int]) -> None:
    ofa, budget = deep(depths), Budget.of({"flops_ratio": share})
    costs, choices = costs_of(ofa), Choices(ofa.search_space)
    found = allocated(curves({0: 100.0, 1: 1.0, 2: 1.0, 3: 0.01}), choices, budget, costs)
    assert 1 <= len(found) <= len(depths)
    assert found[0]["encoder.depth"] == max(config["encoder.depth"] for config in found)
    for config in found:
        choices.numbers(config)  # raises where a size is not among the choices
        assert budget.violation(config, costs(config)) <= 0
    if found[0]["encoder.depth"] == LAYERS:
        first, last = (sum(found[0][f"encoder.{layer}.{part}"] / FULL[part] for part in FULL) for layer in (0, 3))
        assert first > last


def test_without_limits_or_curves_of_its_axes_nothing_is_allocated() -> None:
    ofa = deep()
    costs, choices = costs_of(ofa), Choices(ofa.search_space)
    own = curves(dict.fromkeys(range(LAYERS), 1.0))
    assert allocated(own, choices, Budget.of(None), costs) == []
    assert allocated(own, choices, Budget.of(lambda config: True), costs) == []
    assert allocated([Curve("another", (1, 2), (1.0, 0.0))], choices, Budget.of({"flops_ratio": 0.5}), costs) == []
    assert allocated(own, choices, Budget.of({"flops_ratio": 1e-6}), costs) == []


def test_a_curve_among_other_choices_is_on_its_line() -> None:
    curve = Curve("axis", (2, 6, 12), (6.0, 2.0, 0.0))
    among = curve.among((3, 4, 8, 12))
    assert among.sizes == (3, 4, 12)
    assert among.losses == pytest.approx(np.interp(among.sizes, curve.sizes, curve.losses))
    assert curve.among((0, 1, 2)).sizes == (2,)
    assert curve.among((0, 1)).sizes == (1,)


def test_a_search_begins_with_what_is_allocated(tmp_path: Path) -> None:
    ofa = deep([2, 4])
    config = SearchConfig(
        candidates=16, curves=curves({0: 5.0, 1: 3.0, 2: 1.0, 3: 0.1}), directory=tmp_path, winners=0, progress=False
    )
    result = ofa.search(closeness(ofa), {"flops_ratio": 0.7}, config)
    kinds = [point.kind for point in result.points]
    assert kinds[:2] == ["original", "allocated"]
    assert all(point.within for point in result.points if point.kind == "allocated")
    assert "uniform" in kinds
    assert '"allocated"' in (tmp_path / "report.json").read_text(encoding="utf-8")


def test_what_is_no_curve_is_refused() -> None:
    with pytest.raises(SearchError, match=r"curves is a list, not a list of closed_form\.Curve"):
        SearchConfig(curves=[(1, 2)])  # type: ignore[list-item]
