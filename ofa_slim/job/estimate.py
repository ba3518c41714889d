"""What a recipe would do, without doing it: ``--dry-run``."""

from __future__ import annotations

import resource
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import paddle

from ofa_slim.integrations.paddlenlp import load_sequence_classifier
from ofa_slim.job.glue import TASKS, Task
from ofa_slim.job.plan import STAGES
from ofa_slim.job.recipe import Recipe
from ofa_slim.job.run import count_parameters
from ofa_slim.job.stage_folders import MARK
from ofa_slim.job.tokenised import tokenise
from ofa_slim.train.batches import LABELS, Batches, Examples, inputs_of

SAMPLED_ROWS = 256
TRIED_STEPS = 3


def plan_text(recipe: Recipe, stages: Sequence[str]) -> str:
    """The plan of a run as text: sizes, steps, and an estimate of time and memory from a few steps on this machine.

    The data and the model are read, nothing is written.
    """
    task, folder = TASKS[recipe.task], Path(recipe.output_dir)
    rows, dev = task.read(Path(recipe.data_dir))
    rows, apart = rows.without(recipe.search_rows)
    model, tokenizer = load_sequence_classifier(
        recipe.finetuned_dir or recipe.model_name_or_path, task.num_classes, need_head=recipe.finetuned_dir is not None,
        allow_pickle=recipe.allow_pickle,
    )  # fmt: skip
    training = min(len(rows), recipe.train_rows or len(rows))
    supernet = min(training, recipe.supernet_rows or training)
    scored = {name: min(len(part), recipe.eval_rows or len(part)) for name, part in dev.items()}
    some = tokenise(tokenizer, rows.limited(SAMPLED_ROWS), recipe.max_length)
    step = _step_seconds(model, some, task, recipe.batch_size)
    tuning = 0 if recipe.finetuned_dir else recipe.epochs * -(-training // recipe.batch_size)
    batches = -(-supernet // recipe.batch_size)
    sizes = {
        depth: len(recipe.widths) * depths if recipe.strategy == "uniform" else recipe.random_subnets + 2
        for depth, depths in (("width", 1), ("depth", len(recipe.depth_mults)))
    }
    phases = {"width": recipe.width_epochs * batches, "depth": recipe.depth_epochs * batches}
    share = float(np.mean(recipe.widths))  # a step of a sub-network takes about its width's share
    seconds = step * (tuning + share * sum(phases[name] * sizes[name] for name in phases))
    seconds += step / 3 * len(recipe.widths) * len(recipe.depth_mults) * 2 * sum(scored.values()) / recipe.batch_size
    searched = recipe.search_candidates * min(recipe.search_part, len(apart)) + recipe.search_survivors * len(apart)
    seconds += step / 3 * share * searched / recipe.batch_size
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    memory = peak + 4 * count_parameters(model) * 3 / 2**20  # the teacher, and AdamW's two moments
    lines = [
        f"task        {task.name}: {training} training rows, {len(apart)} for the search, "
        + ", ".join(f"{count} {name}" for name, count in scored.items()),
        f"model       {type(model).__name__}, {count_parameters(model) / 1e6:.2f} M parameters",
        f"fine-tuning {tuning} steps of {recipe.batch_size} rows",
        f"supernet    {phases['width']} steps of {sizes['width']} sub-networks, then {phases['depth']} of "
        f"{sizes['depth']}, {supernet} rows",
        f"search      {recipe.search_candidates} sub-networks; at most "
        + ", ".join(f"{cost} {most:g}" for cost, most in recipe.budget.items()),
        f"formats     {', '.join(recipe.formats)}",
        f"output      {folder}",
        "",
    ]
    for name in STAGES:
        state = "there" if (folder / name / MARK).is_file() else "to do"
        lines.append(f"  {name:<11} {state if name in stages else state + ', not asked for'}")
    lines += ["", f"about {_words(seconds)} for the stages that train, score and search, and {memory / 1024:.1f} GiB"]
    return "\n".join(lines)


def _step_seconds(model: paddle.nn.Layer, examples: Examples, task: Task, rows: int) -> float:
    """The median time of a forward and backward on a batch of usual length."""
    batch = Batches(examples, rows).batch(np.arange(rows) % len(examples))
    length = max(2, int(examples.lengths.mean()))
    inputs = {name: value[:, :length] for name, value in inputs_of(batch).items()}
    loss_of, taken = task.kind.loss, []
    model.train()
    for _ in range(1 + TRIED_STEPS):
        begin = time.perf_counter()
        loss = loss_of(model(**inputs), batch[LABELS])
        loss.backward()
        float(loss)
        taken.append(time.perf_counter() - begin)
        model.clear_gradients()
    return float(np.median(taken[1:]))


def _words(seconds: float) -> str:
    return f"{seconds:.0f} seconds" if seconds < 90 else f"{seconds / 60:.0f} minutes"
