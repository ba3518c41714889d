"""What the stages of one run share: the recipe, its folder, its data, and small helpers."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from visualdl import LogWriter

from ofa_slim.integrations.paddlenlp import load_sequence_classifier
from ofa_slim.job.glue import TASKS, Task
from ofa_slim.job.plan import STAGES, settings
from ofa_slim.job.recipe import Recipe
from ofa_slim.job.tokenised import tokenise
from ofa_slim.ofa import OFA
from ofa_slim.train import parallel
from ofa_slim.train.batches import LABELS, Batches, Examples, arrays
from ofa_slim.train.builders import elastic_blocks
from ofa_slim.train.fitting import evaluate
from ofa_slim.train.loop import RuntimeOptions, Scalars, Schedule, no_scalars

LOG = logging.getLogger(__name__)

SCALARS = "scalars.jsonl"

Scores = dict[str, dict[str, float]]


class Run:
    """A recipe with its folder and, once asked for, its data."""

    def __init__(self, recipe: Recipe) -> None:
        """Reads nothing yet."""
        self.recipe = recipe
        self.folder = Path(recipe.output_dir)
        self.task = TASKS[recipe.task]
        self._examples: tuple[Examples, dict[str, Examples]] | None = None
        self._apart: Examples | None = None

    def examples(self, tokenizer: Any) -> tuple[Examples, dict[str, Examples]]:
        """Training examples and the named sets to score on; tokenised once, all stages share a tokenizer."""
        if self._examples is None:
            rows, dev = self.task.read(Path(self.recipe.data_dir))
            rows, apart = rows.without(self.recipe.search_rows)
            train = rows.limited(self.recipe.train_rows)
            dev = {name: rows.limited(self.recipe.eval_rows) for name, rows in dev.items()}
            counts = {"training": train, "search": apart, **dev}
            sizes = ", ".join(f"{len(rows)} {name} rows" for name, rows in counts.items())
            LOG.info("%s: tokenising %s", self.task.name, sizes)
            cut = self.recipe.max_length
            self._apart = tokenise(tokenizer, apart, cut)
            self._examples = (
                tokenise(tokenizer, train, cut),
                {name: tokenise(tokenizer, rows, cut) for name, rows in dev.items()},
            )
        return self._examples

    def search_examples(self, tokenizer: Any) -> Examples:
        """Rows that neither training nor the report's scores have seen."""
        self.examples(tokenizer)
        assert self._apart is not None
        return self._apart

    def classifier(self, stage: str) -> tuple[paddle.nn.Layer, Any]:
        """The model, in eval mode, and tokenizer that a stage left."""
        return load_sequence_classifier(self.folder / stage, self.task.num_classes, need_head=True)

    def supernet(self) -> tuple[OFA, Any]:
        """The trained supernet, without a teacher, and the tokenizer."""
        model, tokenizer = self.classifier("train")
        return OFA(model, elastic_blocks(model, self.recipe.widths, self.recipe.depth_mults)), tokenizer

    def checkpoints(self, stage: str) -> Path:
        """The folder of a stage's checkpoints."""
        return self.folder / "checkpoints" / stage

    def scores(self, model: paddle.nn.Layer, dev: dict[str, Examples]) -> Scores:
        """The metrics on every set."""
        size = self.recipe.eval_batch_size
        return {name: evaluate(model, Batches(rows, size), self.task.kind) for name, rows in dev.items()}

    def schedule(self, epochs: int, learning_rate: float) -> Schedule:
        """A schedule with what all training of a recipe shares."""
        recipe = self.recipe
        return Schedule(epochs, recipe.batch_size, learning_rate, recipe.warmup, recipe.weight_decay, recipe.accumulate)

    def options(self, stage: str, phase: str, scalars: Scalars) -> RuntimeOptions:
        """What surrounds a phase of a stage's training."""
        order = [*STAGES].index(stage)
        return RuntimeOptions(
            scalars=scalars,
            seed=self.recipe.seed + order,
            amp=self.recipe.amp,
            checkpoints=self.checkpoints(stage) / phase,
            recipe=settings(self.recipe, STAGES[stage]),
            every=self.recipe.checkpoint_every,
        )

    def subnets(self) -> list[tuple[float, float]]:
        """Every width and depth, the largest first."""
        depths, widths = (sorted(set(s), reverse=True) for s in (self.recipe.depth_mults, self.recipe.widths))
        return [(width, depth) for depth in depths for width in widths]

    @contextmanager
    def scalars(self) -> Iterator[Scalars]:
        """Writes scalars for VisualDL and as lines of JSON, in the process that writes."""
        if not parallel.is_writer():
            yield no_scalars
            return
        with (
            LogWriter(logdir=str(self.folder / "vdl")) as writer,
            (self.folder / SCALARS).open("a", encoding="utf-8") as lines,
        ):

            def add(name: str, value: float, step: int) -> None:
                writer.add_scalar(tag=name, value=value, step=step)
                lines.write(json.dumps({"name": name, "step": step, "value": float(value)}) + "\n")
                lines.flush()

            yield add


def subnet_name(width: float, depth: float) -> str:
    """The name of a sub-network's folder."""
    return f"width-{width:g}-depth-{depth:g}"


def count_parameters(model: paddle.nn.Layer) -> int:
    """How many numbers a model holds."""
    return sum(int(np.prod(parameter.shape)) for parameter in model.parameters())


def describe(scores: Scores) -> str:
    """Scores in one line."""
    return ", ".join(
        f"{set_name} {metric} {value:.4f}" for set_name, metrics in scores.items() for metric, value in metrics.items()
    )


def score_arrays(model: Callable[[Any], Any], examples: Examples, task: Task, batch_size: int) -> dict[str, float]:
    """The metrics of a written model, which maps arrays by name to its outputs."""
    batches = list(Batches(examples, batch_size))
    logits = np.concatenate([np.asarray(model(arrays(batch))[0]) for batch in batches])
    labels = np.concatenate([batch[LABELS].numpy() for batch in batches])
    return task.score(logits, labels)


def random_tokens(vocabulary: int, length: int, rng: np.random.Generator, rows: int) -> dict[str, np.ndarray]:
    """Rows of random token ids without padding, int64 [rows, length], to time models on."""
    ids = rng.integers(min(1000, vocabulary // 2), vocabulary, size=(rows, length), dtype=np.int64)
    return {"input_ids": ids, "token_type_ids": np.zeros_like(ids)}
