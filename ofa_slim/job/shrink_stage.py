"""The stage of a job without training: sizes chosen and matrices refitted from unlabelled rows, then written."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from ofa_slim.job.chosen import Chosen, smaller_tables
from ofa_slim.job.distilling import Finish
from ofa_slim.job.finish_stage import finish
from ofa_slim.job.page import about_text, markdown_rows
from ofa_slim.job.plan import STAGES
from ofa_slim.job.run import Run, timed_inputs
from ofa_slim.job.stage_folders import MARK, RESULTS, outdated, write_json, write_text
from ofa_slim.job.without_training import compress_without_training
from ofa_slim.job.writing_stages import ORIGINAL, ModelWriter, calibration_batches

LOG = logging.getLogger(__name__)

SMALLER, REPORT = "smaller", "report.md"


def run_shrink(run: Run, folder: Path, rng: np.random.Generator) -> None:
    """Makes the fine-tuned model smaller; writes it and the original in every format, scored and timed in turns."""
    recipe = run.recipe
    original, tokenizer = run.classifier("finetune")
    train, _ = run.examples(tokenizer)
    shape = [recipe.latency_rows, recipe.latency_length]
    budget = {str(cost): most for cost, most in recipe.budget.items()}
    trials = None
    if recipe.finish_epochs:
        rate = recipe.finish_learning_rate
        trials = Finish(1, rate, seed=recipe.seed, dropout=recipe.finish_dropout, trial_steps=recipe.finish_trial_steps)
    small = compress_without_training(
        original, calibration_batches(train, recipe, rng),
        budget=budget, rows=None, curve_rows=512, input_shapes=[shape, shape], input_dtypes=["int64", "int64"],
        latency=None, engine=recipe.latency_engine, omit=recipe.omit, finish=None, directory=run.checkpoints("shrink"),
        trials=trials,
    )  # fmt: skip
    LOG.info("shrink: %s", small.report)
    chosen = Chosen(small.model, small.model, tokenizer, {})
    if recipe.finish_epochs:
        chosen = finish(run, "shrink", small.model, original, tokenizer, rng)
    chosen = smaller_tables(run, chosen)
    writer = ModelWriter(run, folder, tokenizer)
    writer.write(ORIGINAL, original, recipe.formats, original)
    writer.write(SMALLER, chosen.model, recipe.formats, chosen.reference, small.report.config, chosen.tokenizer)
    writer.timed(timed_inputs(recipe, chosen.model.config.vocab_size, rng))
    results = {"metric": run.task.metrics[0], "rows": writer.rows([ORIGINAL, SMALLER])}
    write_json(folder / RESULTS, {**results, "chosen": small.report.to_dict(), **chosen.about})
    text = f"{markdown_rows(results, run.task.metrics[0])}\n\n```\n{small.report}\n```\n"
    if chosen.about:
        text += f"\n{about_text(chosen.about, run.task.metrics[0], SMALLER)}\n"
    write_text(folder / REPORT, text)


def shrink_report(run: Run) -> str | None:
    """The text of the stage's report; None where it has not run since the fine-tuning that is there."""
    folder = run.folder / "shrink"
    if not (folder / MARK).is_file() or outdated(run.folder, STAGES["shrink"]) is not None:
        return None
    return (folder / REPORT).read_text(encoding="utf-8").rstrip()
