"""Answers new budgets from what a finished run has scored and measured, and writes the chosen sub-networks."""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ofa_slim.errors import SearchError, nearest
from ofa_slim.job.chosen import Chosen, smaller_tables
from ofa_slim.job.finish_stage import cut_and_finished
from ofa_slim.job.finished import finished_run
from ofa_slim.job.plan import STAGES
from ofa_slim.job.run import Run
from ofa_slim.job.stage_folders import check_mark, read_json
from ofa_slim.job.stages import seeded
from ofa_slim.job.writing_stages import ModelWriter
from ofa_slim.search.cost_kinds import with_size
from ofa_slim.supernet import SubnetConfig

LOG = logging.getLogger(__name__)

PICKS = "picks"
SIZE = "size_mb"


@dataclass(frozen=True)
class Wish:
    """One question to a finished run.

    Attributes:
        budget: the most of each cost: those of a search's budget.
        at_least: the least of each metric; as a share, or in percent where it is above 1.
        minimise: the cost to make as small as possible; None: the score is made as high as possible.
        number: of the sub-network in the search, where one was named instead.
    """

    budget: Mapping[str, float] = field(default_factory=dict)
    at_least: Mapping[str, float] = field(default_factory=dict)
    minimise: str | None = None
    number: int | None = None

    @property
    def name(self) -> str:
        """The name of its folder, such as ``latency_ms-3``."""
        if self.number is not None:
            return str(self.number)
        parts = [f"{key}-{value:g}" for key, value in self.budget.items()]
        parts += [f"{key}-at-least-{value:g}" for key, value in self.at_least.items()]
        parts += [] if self.minimise is None else [f"least-{self.minimise}"]
        return "-".join(parts)

    def describe(self) -> str:
        """The question in words."""
        if self.number is not None:
            return f"sub-network {self.number} of the search"
        words = [f"{key} <= {value:g}" for key, value in self.budget.items()]
        words += [f"{key} >= {value:g}" for key, value in self.at_least.items()]
        return ", ".join(words) + ("" if self.minimise is None else f", the least {self.minimise}")


@dataclass(frozen=True)
class Pick:
    """The answer to a wish.

    Attributes:
        wish: the question.
        config: the sizes of the chosen sub-network.
        costs: counted, and predicted from the run's measured times.
        metrics: on the rows that the search scored it on.
        rows: how many rows these are.
    """

    wish: Wish
    config: SubnetConfig
    costs: Mapping[str, float]
    metrics: Mapping[str, float]
    rows: int

    def error(self, metric: str) -> float:
        """The standard error of a metric that is a share of rows."""
        share = min(max(self.metrics[metric], 0.0), 1.0)
        return math.sqrt(share * (1 - share) / self.rows)


def run_to_pick_from(folder: Path) -> Run:
    """The finished run in a folder, whose data is still what it was made from.

    Raises: StageError as `finished_run`, and where the data was edited.
    """
    run = finished_run(folder)
    for stage in ("train", "search"):
        check_mark(folder / stage, run.settings(STAGES[stage]))
    return run


def numbered(run: Run, number: int) -> Pick:
    """The sub-network with a number, as the page shows it: its place in the search, from 0.

    Raises: SearchError for a number that the search does not have.
    """
    points = points_of(run.folder)
    if not 0 <= number < len(points):
        raise SearchError(f"{run.folder}: no sub-network {number}; the search scored 0 to {len(points) - 1}")
    return _pick_of(run, points[number], Wish(number=number))


def picks(run: Run, wishes: Sequence[Wish]) -> list[Pick]:
    """The best scored sub-network for each wish; nothing is scored or measured.

    Raises: SearchError for a cost or metric that the search does not have, or a wish that no scored one fulfils.
    """
    points = points_of(run.folder)
    return [_pick_of(run, best_of(points, wish), wish) for wish in wishes]


def best_of(points: Sequence[Mapping[str, Any]], wish: Wish) -> Mapping[str, Any]:
    """The best of scored sub-networks for a wish; raises SearchError as `picks`."""
    costs, metrics = points[0]["costs"], points[0]["metrics"]
    for key in (*wish.budget, *([] if wish.minimise is None else [wish.minimise])):
        if key not in costs:
            times = (
                "" if "latency_ms" in costs else "; this search measured no times: search with a budget of latency_ms"
            )
            raise SearchError(f"no cost {key!r}{nearest(key, costs)}; the costs are {', '.join(costs)}{times}")
    for key in wish.at_least:
        if key not in metrics:
            raise SearchError(f"no metric {key!r}{nearest(key, metrics)}; the metrics are {', '.join(metrics)}")
    inside = [point for point in points if _fulfils(point, wish)]
    if not inside:
        raise SearchError(f"no scored sub-network has {wish.describe()}; {_nearest_miss(points, wish)}")
    # Where some were scored on a part of the rows only, that part is what all can be compared on.
    comparable = all(point["final"] for point in inside)

    def score(point: Mapping[str, Any]) -> float:
        return float(point["score"] if comparable or point["screened"] is None else point["screened"])

    if wish.minimise is not None:
        least = wish.minimise
        return min(inside, key=lambda point: (point["costs"][least], -score(point)))
    return max(inside, key=lambda point: (score(point), -point["costs"]["params"]))


def _pick_of(run: Run, point: Mapping[str, Any], wish: Wish) -> Pick:
    held_out = len(run.rows()[1])
    rows = held_out if point["final"] else min(held_out, run.recipe.search_part)
    return Pick(wish, SubnetConfig(point["config"]), point["costs"], point["metrics"], rows)


def points_of(folder: Path) -> list[dict[str, Any]]:
    """The sub-networks that the search of a run scored, with ``size_mb`` among their costs also of an older run."""
    points = read_json(folder / "search" / "report.json")["points"]
    return [{**one, "costs": with_size(one["costs"])} for one in points]


def _fulfils(point: Mapping[str, Any], wish: Wish) -> bool:
    return all(point["costs"][key] <= most for key, most in wish.budget.items()) and all(
        point["metrics"][key] >= share(least) for key, least in wish.at_least.items()
    )


def _nearest_miss(points: Sequence[Mapping[str, Any]], wish: Wish) -> str:
    """What the scored sub-networks reach of each wish, alone."""
    reached = [f"{key} from {min(point['costs'][key] for point in points):.4g}" for key in wish.budget]
    reached += [f"{key} up to {max(point['metrics'][key] for point in points):.4f}" for key in wish.at_least]
    return f"they have {' and '.join(reached)}"


def share(value: float) -> float:
    """A metric as a share, from a share or from percent."""
    return value / 100 if value > 1 else value


def write_picks(run: Run, chosen: Sequence[Pick], formats: Sequence[str], finish: bool = False) -> list[dict[str, Any]]:
    """Writes each choice in the formats, proven against what it was cut out of; returns its ``export.json``.

    Args:
        run: the finished run.
        chosen: what to write.
        formats: of each.
        finish: whether each is refitted, trained alone and gets a smaller word table as the recipe says of the run's
            own choice; what was stopped goes on from its checkpoint.
    """
    ofa, tokenizer = run.supernet()
    writer = ModelWriter(run, run.folder / PICKS, tokenizer, formats)
    for pick in chosen:
        if finish:
            made = _finished(run, pick)
            LOG.info("writing %s", pick.wish.name)
            writer.write(pick.wish.name, made.model, formats, made.reference, pick.config, made.tokenizer)
            continue
        LOG.info("writing %s", pick.wish.name)
        with ofa.subnet(pick.config):
            writer.write(pick.wish.name, ofa.export(config=pick.config), formats, ofa.model, pick.config)
    return [writer.records[pick.wish.name] for pick in chosen]


def _finished(run: Run, pick: Pick) -> Chosen:
    """A choice as the stage that trains the run's own choice alone would make it."""
    place = f"{PICKS}-{pick.wish.name}"
    made = smaller_tables(run, cut_and_finished(run, pick.config, seeded(run, STAGES["finish"]), place))
    shutil.rmtree(run.checkpoints(place), ignore_errors=True)
    return made


def described(run: Run, pick: Pick, record: Mapping[str, Any]) -> str:
    """A choice in a few lines."""
    costs = {
        key: pick.costs[key]
        for key in dict.fromkeys([*pick.wish.budget, "params", SIZE, "latency_ms"])
        if key in pick.costs
    }
    metric = run.task.metrics[0]
    lines = [
        f"{pick.wish.describe()}:",
        f"  {metric} {100 * pick.metrics[metric]:.2f} +- {100 * pick.error(metric):.2f} % on {pick.rows} search rows",
        "  " + ", ".join(f"{key} {value:,.4g}" for key, value in costs.items()),
    ]
    for name, entry in record["formats"].items():
        scored = f", {metric} {100 * entry['score']:.2f} % on the rows of the report" if "score" in entry else ""
        lines.append(f"  {run.folder / PICKS / pick.wish.name / name} ({entry['bytes'] / 1e6:.2f} MB{scored})")
    return "\n".join(lines)
