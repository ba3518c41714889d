"""What a recipe would do, without doing it: ``--dry-run``."""

from __future__ import annotations

import resource
import time
from collections.abc import Sequence

import numpy as np
import paddle

from ofa_slim.job.plan import stages_of
from ofa_slim.job.recipe import Recipe
from ofa_slim.job.run import Run, count_parameters
from ofa_slim.job.stage_folders import MARK
from ofa_slim.job.tokenised import tokenise
from ofa_slim.tasks import TaskKind
from ofa_slim.train.batches import LABELS, Batches, Examples, inputs_of

SAMPLED_ROWS = 256
TIMED_STEPS = 3


def plan_text(recipe: Recipe, stages: Sequence[str]) -> str:
    """The plan of a run as text: sizes, steps, and an estimate of time and memory from a few steps on this machine.

    The data and the model are read, nothing is written.
    """
    lines, duration = _planned(recipe, stages)
    return "\n".join([*lines, "", duration])


def duration_text(recipe: Recipe) -> str:
    """The estimate of time and memory alone."""
    return _planned(recipe, stages_of(recipe))[1]


def _planned(recipe: Recipe, stages: Sequence[str]) -> tuple[list[str], str]:
    """The plan without its last line, and this line."""
    run = Run(recipe)
    task, folder = run.task, run.folder
    train, search, dev = run.rows()
    model, tokenizer = run.original()
    sample = tokenise(tokenizer, train.limited(SAMPLED_ROWS), recipe.max_length, run.inputs, task.form)
    step = _step_seconds(model, sample, task.kind, recipe.batch_size)
    tuning = 0 if recipe.finetuned_dir else recipe.epochs * -(-len(train) // recipe.batch_size)
    copies = 1 + recipe.augment_copies
    supernet_rows = copies * min(len(train), recipe.supernet_rows or len(train))
    batches = -(-supernet_rows // recipe.batch_size)
    sizes = {
        phase: len(recipe.widths) * depths if recipe.strategy == "uniform" else recipe.random_subnets + 2
        for phase, depths in (("width", 1), ("depth", len(recipe.depth_mults)))
    }
    phases = {"width": recipe.width_epochs * batches, "depth": recipe.depth_epochs * batches}
    trains = recipe.training != "none"
    share = float(np.mean(recipe.widths))  # a step of a sub-network takes about its width's share
    finishing = recipe.finish_epochs * -(-copies * len(train) // recipe.batch_size)
    seconds = step * (tuning + finishing * share + trains * share * sum(phases[name] * sizes[name] for name in phases))
    forwards = len(recipe.widths) * len(recipe.depth_mults) * 2 * sum(map(len, dev.values()))
    searched = recipe.search_candidates * min(recipe.search_part, len(search)) + recipe.search_survivors * len(search)
    # Without training a calibration row runs some fifteen times, most of them in part.
    seconds += step / 3 * (forwards + share * searched if trains else 15 * recipe.calibration_rows) / recipe.batch_size
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    memory = peak + 4 * count_parameters(model) * 3 / 2**20  # the teacher, and AdamW's two moments
    most = ", ".join(f"{cost} {most:g}" for cost, most in recipe.budget.items())
    supernet = [
        f"supernet    {phases['width']} steps of {sizes['width']} sub-networks, then {phases['depth']} of "
        f"{sizes['depth']}, {supernet_rows} rows",
        f"search      {recipe.search_candidates} sub-networks; at most {most}",
    ]
    if not trains:
        supernet = [f"shrink      {recipe.calibration_rows} rows without labels; at most {most}"]
    lines = [
        f"task        {task.name}: {len(train)} training rows, {len(search)} for the search, "
        + ", ".join(f"{len(rows)} {name}" for name, rows in dev.items()),
        f"model       {type(model).__name__}, {count_parameters(model) / 1e6:.2f} M parameters",
        f"fine-tuning {tuning} steps of {recipe.batch_size} rows",
        *supernet,
        *([f"finish      {finishing} steps of the chosen sub-network alone"] if finishing else []),
        f"formats     {', '.join(recipe.formats)}",
        f"output      {folder}",
        "",
    ]
    for name in dict.fromkeys([*stages_of(recipe), *stages]):
        state = "done" if (folder / name / MARK).is_file() else "to do"
        lines.append(f"  {name:<11} {state if name in stages else state + ', not in --stages'}")
    duration = f"{seconds:.0f} seconds" if seconds < 90 else f"{seconds / 60:.0f} minutes"
    return lines, f"about {duration} for the stages that train, score and search, and {memory / 1024:.1f} GiB"


def _step_seconds(model: paddle.nn.Layer, examples: Examples, kind: TaskKind, batch_size: int) -> float:
    """The median time of a forward and backward on a batch of median length."""
    by_length = np.argsort(examples.lengths)
    middle = max(0, (len(by_length) - batch_size) // 2)
    batch = Batches(examples, batch_size).batch(np.resize(by_length[middle : middle + batch_size], batch_size))
    seconds = []
    model.train()
    for _ in range(1 + TIMED_STEPS):
        start = time.perf_counter()
        loss = kind.loss(model(**inputs_of(batch)), batch[LABELS])
        loss.backward()
        float(loss)
        seconds.append(time.perf_counter() - start)
        model.clear_gradients()
    return float(np.median(seconds[1:]))
