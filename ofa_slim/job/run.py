"""`Run`: what the stages of one job share: the recipe, its folder and its data."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from visualdl import LogWriter

from ofa_slim.base.foreign import model_config
from ofa_slim.errors import RecipeError
from ofa_slim.integrations.paddlenlp import ModelLoadError, load_model
from ofa_slim.job.data.fingerprint import fingerprints
from ofa_slim.job.data.keys import UNLABELLED
from ofa_slim.job.data.own import own_files, own_task
from ofa_slim.job.glue import TASKS
from ofa_slim.job.plan import STAGES, Stage, settings
from ofa_slim.job.recipe import Recipe
from ofa_slim.job.task import Rows, Task
from ofa_slim.job.tokenised import accepted_inputs, tokenise
from ofa_slim.ofa import OFA
from ofa_slim.train import parallel
from ofa_slim.train.augment import augmented
from ofa_slim.train.batches import LABELS, Batches, Examples, arrays, joined
from ofa_slim.train.builders import elastic_blocks
from ofa_slim.train.fitting import evaluate
from ofa_slim.train.loop import RuntimeOptions, Scalars, Schedule, no_scalars
from ofa_slim.train.teacher import TeacherCache

LOG = logging.getLogger(__name__)

SCALARS = "scalars.jsonl"

Scores = dict[str, dict[str, float]]


class Run:
    """A recipe with its folder and, once a stage needs it, its data; `stages` are those that will run."""

    def __init__(self, recipe: Recipe, stages: Sequence[str] = ()) -> None:
        """Reads nothing yet."""
        self.recipe = recipe
        self.stages = stages
        self.folder = Path(recipe.output_dir)
        self.inputs: tuple[str, ...] = ()  # of the model that was loaded last
        self._examples: dict[int, tuple[Examples, Examples, dict[str, Examples]]] = {}

    @cached_property
    def task(self) -> Task:
        """The task; one on files of one's own reads and checks them."""
        recipe = self.recipe
        if recipe.data is None:
            return TASKS[recipe.task]
        return own_task(recipe.task, recipe.data, None if recipe.finetuned_dir is None else labels_of(recipe))

    @cached_property
    def _files(self) -> dict[str, str] | None:
        recipe = self.recipe
        files = own_files(recipe.data) if recipe.data else TASKS[recipe.task].files(Path(recipe.data_dir))
        return fingerprints(files)

    def settings(self, stage: Stage) -> dict[str, object]:
        """What a stage's output depends on: values of the recipe, and the content of the data files."""
        return settings(self.recipe, stage, self._files)

    def rows(self) -> tuple[Rows, Rows, dict[str, Rows]]:
        """The rows to train on, those that the search scores on, and the named sets to score on."""
        rows, dev = self.task.read(Path(self.recipe.data_dir))
        rows, search = rows.without(self._search_rows(len(rows)))
        dev = {name: part.limited(self.recipe.eval_rows) for name, part in dev.items()}
        return rows.limited(self.recipe.train_rows), search, dev

    def _search_rows(self, rows: int) -> int:
        """How many rows are held out; of small files of one's own a fifth, unless the recipe says."""
        recipe = self.recipe
        if recipe.data is None or "search_rows" in recipe.model_fields_set:
            return recipe.search_rows
        return min(recipe.search_rows, rows // 5)

    def examples(self, tokenizer: Any) -> tuple[Examples, dict[str, Examples]]:
        """Training examples and the named sets to score on."""
        train, _, dev = self._tokenised(tokenizer)
        return train, dev

    def search_examples(self, tokenizer: Any) -> Examples:
        """Rows that neither training nor the report's scores have seen."""
        return self._tokenised(tokenizer)[1]

    def _tokenised(self, tokenizer: Any) -> tuple[Examples, Examples, dict[str, Examples]]:
        """All rows, tokenised once by each size of a tokenizer: all stages share one, or its part with fewer tokens."""
        size = len(tokenizer)
        if size not in self._examples:
            train, search, dev = self.rows()
            counts = {"training": train, "search": search, **dev}
            sizes = ", ".join(f"{len(rows)} {name} rows" for name, rows in counts.items())
            LOG.info("%s: tokenising %s", self.task.name, sizes)
            cut, form = self.recipe.max_length, self.task.form
            self._examples[size] = (
                tokenise(tokenizer, train, cut, self.inputs, form),
                tokenise(tokenizer, search, cut, self.inputs, form, scored=True),
                {name: tokenise(tokenizer, rows, cut, self.inputs, form, scored=True) for name, rows in dev.items()},
            )
        return self._examples[size]

    def original(self) -> tuple[paddle.nn.Layer, Any]:
        """The model that the recipe names, in eval mode, and its tokenizer."""
        recipe = self.recipe
        folder = recipe.model_name_or_path if recipe.finetuned_dir is None else recipe.finetuned_dir
        model, tokenizer = self._loaded(folder, recipe.finetuned_dir is not None, recipe.allow_pickle)
        if recipe.data is not None and self.task.labels:
            model.config.id2label = dict(enumerate(self.task.labels))
            model.config.label2id = {label: number for number, label in enumerate(self.task.labels)}
        return model, tokenizer

    def classifier(self, stage: str) -> tuple[paddle.nn.Layer, Any]:
        """The model, in eval mode, and tokenizer that a stage wrote."""
        return self._loaded(self.folder / stage, True)

    def _loaded(self, folder: str | Path, need_head: bool, allow_pickle: bool = False) -> tuple[paddle.nn.Layer, Any]:
        task = self.task
        model, tokenizer = load_model(
            folder, task.num_classes, task.head, need_head=need_head, allow_pickle=allow_pickle
        )
        self.inputs = accepted_inputs(model, tokenizer)
        return model, tokenizer

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
        """A schedule with the settings that all training of a recipe shares."""
        recipe = self.recipe
        return Schedule(epochs, recipe.batch_size, learning_rate, recipe.warmup, recipe.weight_decay, recipe.accumulate)

    def options(self, stage: str, phase: str, scalars: Scalars) -> RuntimeOptions:
        """The options of a phase of a stage's training."""
        return RuntimeOptions(
            scalars=scalars,
            seed=self.recipe.seed + [*STAGES].index(stage),
            amp=self.recipe.amp,
            checkpoints=self.checkpoints(stage) / phase,
            recipe=self.settings(STAGES[stage]),
            every=self.recipe.checkpoint_every,
        )

    def teacher_cache(self, stage: str, train: Examples) -> TeacherCache | None:
        """Where a stage keeps its teacher's answers to some rows; None where the recipe does not ask for it."""
        if not self.recipe.cache_teacher:
            return None
        directory = self.checkpoints(stage) / f"teacher-{parallel.position()[0]}"
        return TeacherCache(directory, rows=len(train), pad_token_id=train.padding["input_ids"])

    def augmented(self, train: Examples, tokenizer: Any, rng: np.random.Generator) -> Examples:
        """Training rows, with the recipe's copies of them for a teacher; see `augmented`."""
        recipe = self.recipe
        if not recipe.augment_copies:
            return train
        found = augmented(
            train, recipe.augment_copies, rng.spawn(1)[0],
            share=recipe.augment_share, special=tokenizer.all_special_ids, mask=tokenizer.mask_token_id,
        )  # fmt: skip
        LOG.info("%d training rows with their copies", len(found))
        return found

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


def labels_of(recipe: Recipe) -> list[str] | None:
    """The labels of the fine-tuned model that a recipe names, in its order; None where its config does not name them.

    Raises: RecipeError where neither the config nor the recipe says which output is which label.
    """
    if recipe.data is None or recipe.data.labels is not None or recipe.task in UNLABELLED:
        return None
    file = Path(str(recipe.finetuned_dir)) / "config.json"
    names = model_config(file, ModelLoadError).get("id2label")
    if not isinstance(names, dict) or all(str(name).startswith("LABEL_") for name in names.values()):
        raise RecipeError(f"{file} does not name its labels; give data.labels, in the order of the model's outputs")
    return [str(names[key]) for key in sorted(names, key=int)]


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
    answers = []
    for batch in batches:
        outputs = [np.asarray(output) for output in model(arrays(batch))[: task.kind.outputs]]
        stacked = outputs[0] if len(outputs) == 1 else np.stack(outputs, axis=-1)
        answers.append(np.asarray(task.kind.reduced(stacked, batch[LABELS])))
    logits = joined(answers)
    labels = joined([batch[LABELS].numpy() for batch in batches])
    return task.score(logits, labels)


def timed_inputs(recipe: Recipe, vocabulary: int, rng: np.random.Generator) -> list[dict[str, np.ndarray]]:
    """What written models are timed on: one row, 32 rows, and as many as the budget is about."""
    return [random_tokens(vocabulary, recipe.latency_length, rng, n) for n in sorted({1, 32, recipe.latency_rows})]


def random_tokens(vocabulary: int, length: int, rng: np.random.Generator, rows: int) -> dict[str, np.ndarray]:
    """Rows of random token ids without padding, int64 [rows, length], to time models on."""
    ids = rng.integers(min(1000, vocabulary // 2), vocabulary, size=(rows, length), dtype=np.int64)
    return {"input_ids": ids, "token_type_ids": np.zeros_like(ids)}
