"""Runs the stages of a job in order; each reads the folders of earlier ones and fills its own."""

from __future__ import annotations

import logging
import resource
import shutil
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import paddle

from ofa_slim.base.progress import duration
from ofa_slim.job import training_stages as training
from ofa_slim.job import writing_stages as writing
from ofa_slim.job.finish_stage import run_finish
from ofa_slim.job.plan import STAGES, Stage, needs
from ofa_slim.job.run import Run
from ofa_slim.job.search_stage import run_search
from ofa_slim.job.shrink_stage import run_shrink
from ofa_slim.job.stage_folders import MARK, StageError, check_mark, new_folder, outdated, read_json
from ofa_slim.train import parallel

LOG = logging.getLogger(__name__)

RUNNERS: dict[str, Callable[[Run, Path, np.random.Generator], None]] = {
    "finetune": training.run_finetune,
    "importance": training.run_importance,
    "reorder": training.run_reorder,
    "train": training.run_train,
    "evaluate": training.run_evaluate,
    "search": run_search,
    "finish": run_finish,
    "formats": writing.run_formats,
    "shrink": run_shrink,
}


def run_stages(run: Run, names: Sequence[str], overwrite: bool, resume: bool = True) -> None:
    """Runs stages in order; those whose output is there and up to date are skipped.

    An output that is made anew stays in place until the new one is complete.

    Args:
        run: the run.
        names: the stages.
        overwrite: whether to make all of these stages anew, and to drop checkpoints of the first and of all after it.
        resume: whether a stage that was stopped goes on from its checkpoint.

    Raises: StageError where an output was made with other settings, or an earlier stage's is missing.
    """
    order = list(STAGES)
    wanted = sorted(set(names), key=order.index)
    if overwrite and wanted and parallel.is_writer():
        for name in order[order.index(wanted[0]) :]:
            shutil.rmtree(run.checkpoints(name), ignore_errors=True)
    parallel.barrier()
    for number, name in enumerate(wanted, start=1):
        stage, place = STAGES[name], f"[{number}/{len(wanted)}]"
        target = run.folder / name
        inputs = {earlier: _checked(run, STAGES[earlier], name) for earlier in needs(run.recipe, stage)}
        if not overwrite and _is_done(run, stage):
            LOG.info("%s %s: skipped, its output is in %s", place, name, target)
        else:
            if not resume and parallel.is_writer():
                shutil.rmtree(run.checkpoints(name), ignore_errors=True)
            parallel.barrier()  # nobody goes on from what is being deleted
            if parallel.is_writer():
                _run_stage(run, stage, inputs, place)
            elif stage.shared:
                RUNNERS[name](run, target, seeded(run, stage))
        parallel.barrier()


def _run_stage(run: Run, stage: Stage, inputs: dict[str, str], place: str) -> None:
    """Runs a stage in the process that writes; `place` says which of how many it is."""
    LOG.info("%s %s: started", place, stage.name)
    start = time.perf_counter()
    mark: dict[str, Any] = {
        "stage": stage.name,
        "id": uuid.uuid4().hex,
        "inputs": inputs,
        "settings": run.settings(stage),
    }
    with new_folder(run.folder / stage.name, mark) as folder:
        with nullcontext() if stage.shared else parallel.alone():
            RUNNERS[stage.name](run, folder, seeded(run, stage))
        mark["seconds"] = round(time.perf_counter() - start, 1)
        mark["peak_memory_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    shutil.rmtree(run.checkpoints(stage.name), ignore_errors=True)
    LOG.info("%s %s: done in %s, at most %d MiB", place, stage.name, duration(mark["seconds"]), mark["peak_memory_mib"])


def seeded(run: Run, stage: Stage) -> np.random.Generator:
    """Paddle's seed set, and a generator, for a stage; the same in every process."""
    number = [*STAGES].index(stage.name)
    paddle.seed(run.recipe.seed + number)
    return np.random.default_rng([run.recipe.seed, number])


def _is_done(run: Run, stage: Stage) -> bool:
    """Whether a stage's output is there, of this recipe, and made from the earlier outputs that are there.

    Where making it anew was stopped, its checkpoints are there too: then it is not done.

    Raises: StageError where it was made with other settings.
    """
    target = run.folder / stage.name
    if not target.exists():
        return False
    checkpoints = run.checkpoints(stage.name)
    if checkpoints.is_dir() and any(checkpoints.iterdir()):
        LOG.info("%s: goes on with making %s anew", stage.name, target)
        return False
    check_mark(target, run.settings(stage))
    earlier = outdated(run.folder, stage)
    if earlier is not None:
        LOG.info("%s: %s was made from another %s and is made anew", stage.name, target, earlier)
    return earlier is None


def _checked(run: Run, stage: Stage, asked_by: str) -> str:
    """The id of a stage's output, after checking that it belongs to this recipe and to the inputs there."""
    target = run.folder / stage.name
    if not target.exists():
        raise StageError(f"{asked_by} needs the output of {stage.name}, but {target} is not there: run it as well")
    check_mark(target, run.settings(stage))
    earlier = outdated(run.folder, stage)
    if earlier is not None:
        raise StageError(
            f"{asked_by} needs the output of {stage.name}, but {target} was made from another {earlier} than the one "
            f"in {run.folder}: run {stage.name} as well, or use another --output_dir"
        )
    return str(read_json(target / MARK)["id"])
