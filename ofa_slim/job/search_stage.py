"""The search of a job: its settings, and whether its budget can be kept to at all."""

from __future__ import annotations

import logging
import shutil
import signal
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import nn

from ofa_slim.base.copies import copied
from ofa_slim.closed_form import Curve
from ofa_slim.errors import BudgetError, LatencyError, StoppedError
from ofa_slim.job.data.own import strata
from ofa_slim.job.recipe import Recipe
from ofa_slim.job.run import Run
from ofa_slim.job.stage_folders import RESULTS, read_json, write_json
from ofa_slim.job.tokenised import leading_inputs
from ofa_slim.measure import LatencyTable
from ofa_slim.ofa import OFA
from ofa_slim.search import SearchConfig, stratified
from ofa_slim.search.budget import Budget
from ofa_slim.search.costs import TABLE
from ofa_slim.search.search import Search
from ofa_slim.tasks import IGNORED
from ofa_slim.train.batches import Batches, Examples
from ofa_slim.train.builders import elastic_blocks
from ofa_slim.train.fitting import predicted

CURVES = "curves.json"  # in the folder of the stage that scores heads and neurons

LOG = logging.getLogger(__name__)


def run_search(run: Run, folder: Path, rng: np.random.Generator) -> None:
    """Finds the best sub-network within the budget, on rows that nothing has trained on."""
    recipe = run.recipe
    ofa, tokenizer = run.supernet()
    rows = run.search_examples(tokenizer)
    part = rows.take(stratified(strata(rows.labels), min(recipe.search_part, len(rows))))
    screen = search_score(run, part) if len(part) < len(rows) else None
    config = replace(_config(run, ofa), screen=screen)
    result = ofa.search(search_score(run, rows), _budget(recipe), config)
    if not result.complete:
        raise StoppedError("search: stopped; what it scored is kept, the same command goes on", signal.SIGINT)
    directory = run.checkpoints("search")
    for name in ("report.md", "report.json", "pareto.png", "winner.png"):
        shutil.copyfile(directory / name, folder / name)
    if config.latency is not None:
        config.latency.save(folder / TABLE)
    elif (directory / TABLE).is_file():
        shutil.copyfile(directory / TABLE, folder / TABLE)
    best = result.best
    found = {"config": dict(best.config), "costs": dict(best.costs), "metrics": dict(best.metrics)}
    LOG.info("search: %d sub-networks scored; the best within the budget: %s", len(result.points), best.metrics)
    write_json(folder / RESULTS, found)


def check_budget(run: Run, model: nn.Layer) -> None:
    """Refuses a budget that no sub-network keeps to, before anything is trained.

    What a budget of time needs is measured for this, and kept for the search.

    Args:
        run: the run.
        model: the original, which stays as it is, as do Paddle's random numbers.

    Raises: BudgetError that names the cheapest sub-network.
    """
    recipe, numbers = run.recipe, paddle.get_rng_state()
    elastic = copied(model)
    ofa = OFA(elastic, elastic_blocks(elastic, recipe.widths, recipe.depth_mults))
    try:
        Search(ofa.supernet, lambda _: 0.0, _budget(recipe), _config(run, ofa))
    except BudgetError as error:
        cheapest = str(error).removeprefix("condition: ")
        raise BudgetError(
            f"key 'budget' is {recipe.budget}: {cheapest}; smaller widths, or depth_mults such as [1.0, 0.5] with "
            "depth_epochs, reach further"
        ) from None
    finally:
        paddle.set_rng_state(numbers)


def _budget(recipe: Recipe) -> dict[str, float]:
    return {str(cost): most for cost, most in recipe.budget.items()}


def _config(run: Run, ofa: OFA) -> SearchConfig:
    """The settings of the search but for its scores."""
    recipe = run.recipe
    shapes = [[recipe.latency_rows, recipe.latency_length]] * leading_inputs(ofa.model, run.inputs)
    return SearchConfig(
        candidates=recipe.search_candidates, survivors=recipe.search_survivors, multiple_of=recipe.multiple_of,
        seed=recipe.seed, directory=run.checkpoints("search"), input_shapes=shapes,
        input_dtypes=["int64"] * len(shapes), winners=0, latency=_kept_times(run, ofa, shapes),
        engine=recipe.latency_engine, curves=_curves(run),
    )  # fmt: skip


def _curves(run: Run) -> list[Curve]:
    """What the fine-tuned model loses when one axis is cut, where the order of the recipe has measured it."""
    file = run.folder / "importance" / CURVES
    if not file.is_file():
        return []
    return [Curve(one["axis"], tuple(one["sizes"]), tuple(one["losses"])) for one in read_json(file)]


def _kept_times(run: Run, ofa: OFA, shapes: Sequence[Sequence[int]]) -> LatencyTable | None:
    """The times that an earlier search measured, where the budget needs them and they hold for this one."""
    file = run.folder / "search" / TABLE
    needed = Budget.of(_budget(run.recipe)).needs_latency
    if not needed or not file.is_file() or (run.checkpoints("search") / TABLE).is_file():
        return None
    try:
        table = LatencyTable.load(file)
        table.check(ofa, shapes, ["int64"] * len(shapes), run.recipe.latency_engine)
    except LatencyError as error:
        LOG.info("search: %s is not used: %s", file, error)
        return None
    LOG.info("search: the times are those of %s", file)
    return table


def search_score(run: Run, examples: Examples) -> Callable[[Any], dict[str, float]]:
    """Scores for a search: the mean probability of the right label, which depends less on luck; then the metrics."""

    def score(ofa: Any) -> dict[str, float]:
        logits, labels = predicted(ofa.model, Batches(examples, run.recipe.eval_batch_size), run.task.kind)
        metrics = run.task.score(logits, labels)
        if run.task.regression:
            return metrics
        if run.task.form == "next":
            chances = np.exp(logits[..., 0][labels[:, 1:] != IGNORED])
            return {"probability": float(chances.mean()), "accuracy": metrics["accuracy"]}
        if run.task.form == "spans":
            # Nearly all tokens are no border of a span: these count as much as those that are.
            parts = [logits[labels == 1], 1 - logits[labels == 0]]
            return {"probability": float(np.mean([part.mean() for part in parts if part.size])), **metrics}
        if run.task.form == "multi_label":
            right = 1 / (1 + np.exp(np.where(labels > 0.5, -logits, logits)))
            return {"probability": float(right.mean()), **metrics}
        if run.task.form == "answers":
            logits, labels = (np.concatenate(np.moveaxis(one, -1, 0)) for one in (logits, labels))
        if run.task.form in ("tokens", "answers"):
            counted = labels != IGNORED
            logits, labels = logits[counted], labels[counted]
        chances = np.exp(logits - logits.max(-1, keepdims=True))
        right = chances[np.arange(len(labels)), labels] / chances.sum(-1)
        return {"probability": float(right.mean()), **metrics}

    return score
