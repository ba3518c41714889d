"""The report of a search: a page, the same for programs, and two pictures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from ofa_slim.base.files import atomic_file
from ofa_slim.search.cost_kinds import COSTS
from ofa_slim.search.pictures import draw_points, draw_subnet
from ofa_slim.search.result import Point, SearchResult, Winner
from ofa_slim.supernet.space import SearchSpace

PAGE, DATA, POINTS, WINNER = "report.md", "report.json", "pareto.png", "winner.png"


def write_report(result: SearchResult, space: SearchSpace, directory: Path) -> None:
    """Writes ``report.md``, ``report.json``, ``pareto.png`` and, once there is a best one, ``winner.png``."""
    _write(directory / DATA, json.dumps(result.to_dict(), indent=1) + "\n")
    draw_points(result, directory / POINTS)
    if result.front:
        draw_subnet(space, result.config, directory / WINNER)
    _write(directory / PAGE, page(result))


def page(result: SearchResult) -> str:
    """The report as Markdown."""
    inside = sum(point.within for point in result.points)
    lines = [
        f"# Search: {result.metric} against {result.cost}",
        "",
        f"Budget: {result.budget.describe()}. {len(result.points)} sub-networks were scored, {inside} of them within it"
        + ("." if result.complete else "; the search was interrupted."),
    ]
    if not all(point.final for point in result.points):
        final = sum(point.final for point in result.points)
        lines[-1] += f" All were screened; scores are of the {final} that were scored in full."
    if result.rank_correlation == result.rank_correlation:
        lines += [
            "",
            "Rank correlation of predicted and measured scores, on points that the regressor had not seen: "
            f"{result.rank_correlation:.2f}.",
        ]
    if not result.front:
        return "\n".join([*lines, "", "Nothing within the budget was scored yet.", ""])
    lines += ["", "## The best within the budget", "", _row_titles(result), _rule(result), _row(result, result.best)]
    lines += ["", f"`{result.config.to_json()}`", "", f"![what it keeps of each layer]({WINNER})"]
    for winner in result.winners:
        lines += ["", _measured(result, winner)]
    lines += ["", "## The trade-off", "", f"![all sub-networks, {result.metric} over {result.cost}]({POINTS})", ""]
    lines += ["The front, the cheapest first:", "", *_table(result, result.front)]
    if result.uniform:
        lines += ["", "The original and the uniform sub-networks:", "", *_table(result, result.uniform)]
    return "\n".join([*lines, ""])


def _table(result: SearchResult, points: Sequence[Point]) -> list[str]:
    return [_row_titles(result), _rule(result), *(_row(result, point) for point in points)]


def _columns(result: SearchResult) -> list[str]:
    known = result.points[0].costs
    return [name for name in sorted(COSTS, key=lambda name: not COSTS[name].measured) if name in known]


def _row_titles(result: SearchResult) -> str:
    return f"| from | {result.metric} | " + " | ".join(_columns(result)) + " |"


def _rule(result: SearchResult) -> str:
    return "| --- |" + " ---: |" * (1 + len(_columns(result)))


def _row(result: SearchResult, point: Point) -> str:
    costs = " | ".join(COSTS[name].text(point.costs[name]) for name in _columns(result))
    return f"| {point.kind} | {point.score:.4f} | {costs} |"


def _measured(result: SearchResult, winner: Winner) -> str:
    """The measured score and time of an exported sub-network, with the predicted ones."""
    words = [f"{result.metric} {winner.score:.4f} (in the supernet {winner.point.score:.4f})"]
    if winner.share is not None:
        words.append(
            f"{winner.latency_ms:.2f} ms in turns with the original's {winner.original_latency_ms:.2f} ms: "
            f"{winner.share:.3f} of its time (predicted {winner.point.costs['latency_ratio']:.3f})"
        )
    if winner.directory is not None:
        words.append(f"in `{winner.directory}`")
    return "Exported: " + "; ".join(words) + "."


def _write(file: Path, text: str) -> None:
    with atomic_file(file) as aside:
        aside.write_text(text, encoding="utf-8")
