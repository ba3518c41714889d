"""The sub-networks of a run as plain data: what the page draws, points with their scores, costs and sizes."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from ofa_slim.job.run import subnet_name
from ofa_slim.job.writing_stages import INFERENCE, ORIGINAL, SEARCHED
from ofa_slim.search.cost_kinds import COSTS, kind_of, with_size
from ofa_slim.supernet.axis import DEPTH
from ofa_slim.supernet.layers import kept_layers

_KINDS = ("searched", "uniform width and depth", "original")


def explorer_data(report: Mapping[str, Any], folder: str) -> dict[str, Any]:
    """The data of the page's chart, for JSON.

    Args:
        report: what ``report.json`` holds.
        folder: of the run, as commands name it.

    Returns: ``sets``, each with the titles of its scores and costs and its points; ``layers``, which part of a
        point's sizes belongs to which layer; ``depths``, which layers each depth keeps.
    """
    whole = _whole(report)
    names = list(whole)
    finish = " --finish" if report["settings"].get("finish_epochs") else ""
    sets = [_searched(report["search"], names, folder, finish), _written(report, names, whole, folder)]
    return {"sets": [one for one in sets if one["points"]], "layers": _layers(whole), "depths": _depths(whole)}


def as_script(data: Any) -> str:
    """JSON for the inside of a script element, where no text can end the element or start a comment."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def _whole(report: Mapping[str, Any]) -> dict[str, int]:
    """The sizes of the original, by axis; of the largest sub-network where the original was not scored."""
    configs = [point["config"] for point in report["search"]["points"]]
    names = configs[0] if configs else report["formats"].get("config", {})
    original = [point["config"] for point in report["search"]["points"] if point["kind"] == ORIGINAL]
    among = original or configs or [names]
    return {name: max(config[name] for config in among) for name in names}


def _searched(search: Mapping[str, Any], names: Sequence[str], folder: str, finish: str) -> dict[str, Any]:
    """The points of the search, in its order; `finish` is how the command that writes one ends."""
    points = [{**point, "costs": with_size(point["costs"])} for point in search["points"]]
    kinds = [kind for kind in COSTS.values() if points and kind.name in points[0]["costs"]]
    kinds.sort(key=lambda kind: kind.name != search["cost"])
    metrics = [search["metric"], *(name for name in (points[0]["metrics"] if points else ()))]
    metrics = list(dict.fromkeys(metrics))
    costs = [{"title": kind.title, "limit": _limit(search, kind.name)} for kind in kinds]
    rows = []
    for number, point in enumerate(points):
        has = {search["metric"]: point["score"], **point["metrics"]}
        rows.append(
            {
                "name": f"sub-network {number}",
                "kind": {ORIGINAL: 2, "uniform": 1}.get(point["kind"], 0),
                "final": point["final"],
                "scores": [_percent(has.get(name)) for name in metrics],
                "costs": [_short(kind.scale * point["costs"][kind.name]) for kind in kinds],
                "sizes": [point["config"][name] for name in names],
                "command": f"ofa-slim pick {shlex.quote(folder)} {number}{finish}",
            }
        )
    return {
        "title": "all scored in the search",
        "kinds": list(_KINDS),
        "scores": metrics,
        "costs": costs,
        "points": rows,
    }


def _written(report: Mapping[str, Any], names: Sequence[str], whole: Mapping[str, int], folder: str) -> dict[str, Any]:
    """The models that were written, in every format: what was measured of their files."""
    rows = report["formats"]["rows"]
    shapes = list(rows[0]["latency_ms"])
    sizes = {ORIGINAL: whole, SEARCHED: report["formats"].get("config", {})}
    models = [
        (
            (row["model"], row["format"]),
            row["score"],
            [*(row["latency_ms"][shape]["median"] for shape in shapes), row["bytes"] / 1e6, row.get("parameters")],
        )
        for row in rows
    ]
    there = {key for key, _, _ in models}
    for subnet in report.get("subnets", ()):
        key = (subnet_name(subnet["width"], subnet["depth_mult"]), INFERENCE)
        if key not in there:
            score = next(iter(subnet["scores"].values()))[report["metric"]]
            other = [None] * (len(shapes) - 1)
            models.append((key, score, [subnet["latency_ms"], *other, subnet["megabytes"], subnet["parameters"]]))
    kinds = list(dict.fromkeys(form for (_, form), _, _ in models))
    return {
        "title": "written and measured",
        "kinds": kinds,
        "scores": [report["metric"]],
        "costs": [
            {"title": title, "limit": None}
            for title in (*(f"latency of {shape} (ms)" for shape in shapes), "size (MB)", "parameters (millions)")
        ],
        "points": [
            {
                "name": f"{model}, {form}",
                "kind": kinds.index(form),
                "final": True,
                "scores": [_percent(score)],
                "costs": [_short(cost) for cost in (*costs[:-1], None if costs[-1] is None else costs[-1] / 1e6)],
                "sizes": [sizes[model].get(name) for name in names] if model in sizes else None,
                "command": f"ofa-slim predict {shlex.quote(f'{folder}/formats/{model}/{form}')} 'some text'",
            }
            for (model, form), score, costs in models
        ],
    }


def _limit(search: Mapping[str, Any], cost: str) -> float | None:
    """The search's budget of a cost in the unit that is drawn; None where it has none."""
    original: Mapping[str, float] = next(
        (point["costs"] for point in search["points"] if point["kind"] == ORIGINAL), {}
    )
    for key, most in search.get("limits", {}).items():
        kind = kind_of(key)
        if kind.name == cost and (key == cost or cost in original):
            return _short(kind.scale * most * (1 if key == cost else original[cost]))
    return None


def _layers(whole: Mapping[str, int]) -> list[dict[str, Any]]:
    """The layers in order, each with its elastic parts: their place among the sizes, kind and whole size."""
    places = {name: place for place, name in enumerate(whole)}
    found: dict[str, dict[str, Any]] = {}
    for name, full in whole.items():
        layer, _, kind = name.rpartition(".")
        if kind == DEPTH:
            continue
        stack, _, number = layer.rpartition(".")
        new: dict[str, Any] = {
            "name": number if number.isdigit() else layer or kind,
            "number": int(number) if number.isdigit() else None,
            "depth": places.get(f"{stack}.{DEPTH}"),
            "parts": [],
        }
        found.setdefault(layer or kind, new)["parts"].append([places[name], kind, full])
    for one in found.values():
        one["parts"].sort(key=lambda part: part[1] != "heads")
    return list(found.values())


def _depths(whole: Mapping[str, int]) -> dict[int, dict[int, list[int]]]:
    """Which layers each depth keeps, by the depth's place among the sizes."""
    return {
        place: {depth: list(kept_layers(depth, full)) for depth in range(1, full + 1)}
        for place, (name, full) in enumerate(whole.items())
        if name.rpartition(".")[2] == DEPTH
    }


def _percent(score: float | None) -> float | None:
    return None if score is None else _short(100 * score)


def _short(value: float | None) -> float | None:
    """Six digits; None for what is not a finite number."""
    if value is None or value != value or abs(value) == float("inf"):
        return None
    return float(f"{value:.6g}")
