"""The stages: their order, what each reads, and which keys of the recipe its output depends on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ofa_slim.job.recipe import Recipe

DATA_KEYS = ("task", "data", "data_dir", "max_length", "train_rows", "eval_rows", "search_rows", "seed")
FILES = "data_files"
"""The entry of a stage's settings with a fingerprint of each data file."""


@dataclass(frozen=True)
class Stage:
    """One stage.

    Attributes:
        name: of the stage and its folder.
        needs: the stages whose folders it reads.
        keys: the recipe's keys that it depends on, besides those of the data and of earlier stages.
        shared: whether all processes take part; else only the first one runs it.
    """

    name: str
    needs: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    shared: bool = False


FINETUNE_KEYS = (
    "model_name_or_path", "finetuned_dir", "epochs", "learning_rate", "batch_size", "warmup", "weight_decay",
    "accumulate", "amp",
)  # fmt: skip
AUGMENT_KEYS = ("augment_copies", "augment_share")
TRAIN_KEYS = (
    "supernet_rows", "widths", "depth_mults", "width_epochs", "depth_epochs", "width_learning_rate",
    "depth_learning_rate", "lambda_logit", "lambda_rep", "strategy", "random_subnets", "cache_teacher",
    "supernet_dropout", *AUGMENT_KEYS,
)  # fmt: skip

SEARCH_KEYS = (
    "budget", "search_candidates", "search_part", "search_survivors", "multiple_of", "latency_rows", "latency_length",
    "latency_engine",
)  # fmt: skip
FINISH_KEYS = (
    "finish_epochs", "finish_learning_rate", "finish_dropout", "repair", "calibration_rows", "vocabulary_coverage",
    *AUGMENT_KEYS,
)  # fmt: skip
FORMAT_KEYS = (
    "finish_epochs", "formats", "format_widths", "embedding_rank", "vocabulary_coverage", "repair", "calibration_rows",
    "tolerance", "latency_length", "latency_rounds",
)  # fmt: skip
SHRINK_KEYS = (
    "budget", "calibration_rows", "omit", "finish_epochs", "finish_learning_rate", "finish_dropout",
    "finish_trial_steps", "vocabulary_coverage", "embedding_rank", "formats", "tolerance", "latency_rows",
    "latency_length", "latency_engine", "latency_rounds", "cache_teacher", *AUGMENT_KEYS,
)  # fmt: skip

STAGES: dict[str, Stage] = {
    stage.name: stage
    for stage in (
        Stage("finetune", keys=FINETUNE_KEYS, shared=True),
        Stage("importance", ("finetune",), ("importance_rows", "order")),
        Stage("reorder", ("finetune", "importance")),
        Stage("train", ("reorder",), TRAIN_KEYS, shared=True),
        Stage("evaluate", ("train",), shared=True),
        Stage("search", ("train",), SEARCH_KEYS),
        Stage("finish", ("finetune", "train", "search"), FINISH_KEYS, shared=True),
        Stage("formats", ("finetune", "train", "search", "finish"), FORMAT_KEYS),
        Stage("shrink", ("finetune",), SHRINK_KEYS),
    )
}


FORMER = {"export": "formats", "rescore": "formats"}
"""Stages of earlier versions, and the one that does their work now."""


def stages_of(recipe: Recipe) -> list[str]:
    """The stages that a recipe runs where none are named."""
    if recipe.training == "none":
        return ["finetune", "shrink"]
    return [name for name in STAGES if name != "shrink" and (name != "finish" or recipe.finish_epochs)]


def needs(recipe: Recipe, stage: Stage) -> tuple[str, ...]:
    """The stages whose folders a stage reads with a recipe."""
    return tuple(name for name in stage.needs if name != "finish" or recipe.finish_epochs)


def settings(recipe: Recipe, stage: Stage, files: Mapping[str, str] | None = None) -> dict[str, object]:
    """The recipe's values that a stage's output depends on, including those of earlier stages.

    Args:
        recipe: the recipe.
        stage: the stage.
        files: a fingerprint of each data file; None where the files are not there any more.
    """
    keys = list(DATA_KEYS)
    for earlier in upstream(recipe, stage):
        keys += earlier.keys
    keys += stage.keys
    values = {key: getattr(recipe, key) for key in dict.fromkeys(keys)}
    if recipe.data is not None:
        values["data"] = recipe.data.model_dump(mode="json")
    return values if files is None else {**values, FILES: dict(files)}


def upstream(recipe: Recipe, stage: Stage) -> list[Stage]:
    """All stages that a stage depends on, in order."""
    found: set[str] = set()
    for name in needs(recipe, stage):
        found |= {name, *(earlier.name for earlier in upstream(recipe, STAGES[name]))}
    return [STAGES[name] for name in STAGES if name in found]
