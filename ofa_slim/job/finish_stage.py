"""The stage in which the chosen sub-network trains on alone, with the fine-tuned model as its teacher."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from paddle import nn

from ofa_slim.export.subnet_files import save_subnet
from ofa_slim.job.chosen import FINISHED_MODEL, Chosen, fewer_tokens
from ofa_slim.job.run import Run, describe
from ofa_slim.job.stage_folders import RESULTS, read_json, write_json
from ofa_slim.job.writing_stages import calibration_batches
from ofa_slim.ofa import OFA
from ofa_slim.supernet import SubnetConfig
from ofa_slim.supernet.handle import make_plain
from ofa_slim.train import parallel
from ofa_slim.train.builders import Teaching, only_subnet
from ofa_slim.train.fitting import train_supernet

LOG = logging.getLogger(__name__)


def run_finish(run: Run, folder: Path, rng: np.random.Generator) -> None:
    """Cuts the searched sub-network out, trains it alone, and saves it."""
    config = SubnetConfig(read_json(run.folder / "search" / RESULTS)["config"])
    chosen = cut_and_finished(run, config, rng)
    if parallel.is_writer():
        save_subnet(chosen.model, folder / FINISHED_MODEL)
        write_json(folder / RESULTS, dict(chosen.about))


def cut_and_finished(run: Run, config: SubnetConfig, rng: np.random.Generator, place: str | None = None) -> Chosen:
    """A sub-network of the run's supernet, cut out, refitted where the recipe asks for it, and trained alone.

    Args:
        run: the run, whose supernet is trained.
        config: the sub-network.
        rng: draws the rows that refit, and orders the batches.
        place: see `finish`.
    """
    ofa, _ = run.supernet()
    teacher, tokenizer = run.classifier("finetune")
    train, _ = run.examples(tokenizer)
    repair = calibration_batches(train, run.recipe, rng) if run.recipe.repair else None
    return finish(run, "finish", ofa.export(config=config, repair=repair), teacher, tokenizer, rng, place)


def finish(
    run: Run,
    stage: str,
    small: nn.Layer,
    teacher: nn.Layer,
    tokenizer: Any,
    rng: np.random.Generator,
    place: str | None = None,
) -> Chosen:
    """Trains a plain model alone for the recipe's epochs, from its checkpoint where there is one.

    Where the recipe asks for fewer tokens, they go first, so that it gets used to how words are spelled then.

    Args:
        run: the run.
        stage: whose settings and seed it has.
        small: cut out of `teacher`; trained in place.
        teacher: stays as it is.
        tokenizer: of both.
        rng: orders the batches.
        place: the name of the folder that keeps checkpoints; by default that of the stage.
    """
    place = stage if place is None else place
    recipe, about = run.recipe, {}
    if recipe.vocabulary_coverage is not None:
        teacher, _, _ = fewer_tokens(run, teacher, tokenizer)
        small, tokenizer, report = fewer_tokens(run, small, tokenizer)
        about["vocabulary"] = report.to_dict()
    train, dev = run.examples(tokenizer)
    train = run.augmented(train, tokenizer, rng)
    before = run.scores(small, dev)
    cache = run.teacher_cache(place, train)
    distill = Teaching(teacher, lambda_distill=recipe.lambda_rep, cache=cache).config(small)
    ofa = OFA(small, only_subnet(small), distill, train_full=True)
    whole = ofa.search_space.largest()
    schedule = run.schedule(recipe.finish_epochs, recipe.finish_learning_rate)
    with run.scalars() as scalars:
        options = run.options(stage, "finish", scalars)
        options = replace(options, checkpoints=run.checkpoints(place) / "finish", dropout=recipe.finish_dropout)
        train_supernet(
            ofa, train, run.task.kind, schedule, rng, lambda _: [whole], recipe.lambda_logit, options, "finishing"
        )
    make_plain(small)
    after = run.scores(small, dev)
    LOG.info("trained alone: %s; before: %s", describe(after), describe(before))
    about["finish"] = {"epochs": recipe.finish_epochs, "scores_before": before, "scores": after}
    return Chosen(small, small, tokenizer, about)
