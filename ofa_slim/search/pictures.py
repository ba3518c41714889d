"""The pictures of a search: every point over its cost, and what the winner keeps of each layer."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ofa_slim.base.files import atomic_file
from ofa_slim.search.cost_kinds import COSTS
from ofa_slim.search.result import Point, SearchResult
from ofa_slim.supernet.axis import DEPTH
from ofa_slim.supernet.layers import kept_layers
from ofa_slim.supernet.space import SearchSpace
from ofa_slim.supernet.subnet_config import SubnetConfig

# Blue, vermilion and green that people with any colour vision can tell apart: Okabe and Ito 2008.
_SEARCHED, _FRONT, _UNIFORM = "#9ecae9", "#0072b2", "#d55e00"


def draw_points(result: SearchResult, file: Path) -> None:
    """Draws every scored sub-network over its cost: the front, the uniform ones, the original and the budget."""
    kind = COSTS[result.cost]
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()

    def places(points: Iterable[Point]) -> tuple[list[float], list[float]]:
        chosen = list(points)
        return [kind.scale * point.costs[result.cost] for point in chosen], [point.score for point in chosen]

    scored = [point for point in result.points if point.final]
    searched = [point for point in scored if point.kind in ("optimiser", "regressor")]
    axes.plot(*places(searched), "o", color=_SEARCHED, markersize=4, label=f"searched ({len(searched)} shown)")
    front = result.front
    axes.plot(*places(front), "o-", color=_FRONT, markersize=5, label="Pareto front", drawstyle="steps-post")
    axes.plot(*places(result.uniform), "s", color=_UNIFORM, markersize=6, label="uniform width and depth")
    if result.original is not None:
        axes.plot(
            *places([result.original]), "*", color="black", markerfacecolor="white", markersize=15, label="original"
        )
    for winner in result.winners[:1]:
        if winner.share is not None and result.original is not None and kind.measured:
            # In units of the original that was timed in turns with it: the machine may be slower than it was.
            measured = winner.share * result.original.costs[kind.name]
            axes.plot(
                [measured], [winner.score], "D", color=_FRONT, markerfacecolor="none", markersize=10,
                label="the best, exported and measured",
            )  # fmt: skip
    for key, most in result.budget.limits.items():
        if key == result.cost:
            axes.axvline(kind.scale * most, color="0.4", linestyle="--", label=f"budget: {kind.scale * most:g}")
    axes.set_xlabel(kind.title)
    axes.set_ylabel(result.metric)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=9, loc="lower right")
    _save(figure, file)


def draw_subnet(space: SearchSpace, config: SubnetConfig, file: Path) -> None:
    """Draws the size of every axis of a sub-network over its layer, one panel for each kind of axis.

    Layers that the depth drops are left empty.
    """
    groups = _groups(space)
    figure = Figure(figsize=(8, 0.6 + 1.9 * len(groups)), layout="constrained")
    panels: list[Axes] = list(np.atleast_1d(figure.subplots(len(groups))))
    for panel, (kind, axes) in zip(panels, groups.items(), strict=True):
        kept = [config[name] if _runs(space, name, config) else 0 for name in axes]
        places = np.arange(len(axes))
        panel.bar(places, [space[name].full for name in axes], color="0.9", label="whole")
        panel.bar(places, kept, color=_FRONT, label="kept")
        for place, size in zip(places, kept, strict=True):
            if len(axes) <= 24:
                panel.annotate(str(size), (place, size), ha="center", va="bottom", fontsize=8)
        panel.set_ylabel(kind)
        panel.set_xticks(places)
        labels = [_layer_name(name) for name in axes]
        panel.set_xticklabels(labels, rotation=0 if max(map(len, labels)) <= 3 else 90, fontsize=8)
        panel.margins(x=0.02, y=0.15)
    panels[0].legend(frameon=False, fontsize=9, ncols=2, loc="lower right", bbox_to_anchor=(1.0, 1.0))
    panels[-1].set_xlabel("layer")
    _save(figure, file)


def _groups(space: SearchSpace) -> dict[str, list[str]]:
    """The names of the elastic axes of a model's layers by their last part: heads, ffn, channels, ..."""
    found: dict[str, list[str]] = {}
    for axis in space.axes:
        if axis.task != DEPTH and axis.elastic:
            found.setdefault(axis.name.rpartition(".")[2], []).append(axis.name)
    return found or {axis.name: [axis.name] for axis in space.axes if axis.elastic}


def _layer_name(name: str) -> str:
    """What stands below a bar: the number of a layer where there is just one, else its path."""
    path = name.rpartition(".")[0] or name
    numbers = re.findall(r"\d+", path)
    return numbers[0] if len(numbers) == 1 and re.search(r"\.\d+$", path) else path


def _runs(space: SearchSpace, name: str, config: SubnetConfig) -> bool:
    """Whether the layer of an axis is among those that the depth keeps."""
    stack, _, number = name.rpartition(".")[0].rpartition(".")
    depth = f"{stack}.{DEPTH}"
    if depth not in config or not number.isdigit():
        return True
    return int(number) in kept_layers(config[depth], space[depth].size)


def _save(figure: Figure, file: Path) -> None:
    FigureCanvasAgg(figure)
    options: dict[str, Any] = {"format": "png", "dpi": 150}
    with atomic_file(file) as aside:
        figure.savefig(aside, **options)
