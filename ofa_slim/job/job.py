"""Runs a recipe: logging, the stages, the report."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import paddle
from tqdm.contrib.logging import logging_redirect_tqdm

from ofa_slim.base.optional import require_paddlenlp
from ofa_slim.errors import RecipeError
from ofa_slim.job.plan import FORMER, STAGES, stages_of
from ofa_slim.job.recipe import Recipe
from ofa_slim.job.report import REPORTED, write_report
from ofa_slim.job.run import Run
from ofa_slim.job.shrink_stage import shrink_report
from ofa_slim.job.stage_folders import MARK, outdated
from ofa_slim.job.stages import run_stages
from ofa_slim.train import parallel


def compress(
    recipe: Recipe, stages: Sequence[str] | None = None, *, overwrite: bool = False, resume: bool = True
) -> str | None:
    """Runs the stages of a recipe; those whose output is there are skipped.

    Args:
        recipe: the settings.
        stages: some of `STAGES`; by default `stages_of` the recipe.
        overwrite: whether to make all of these stages anew; each output is replaced once the new one is complete.
        resume: whether a stage that was stopped goes on from its checkpoint.

    Returns: the report's tables, once the stages that it needs have run; they are in the run's folder too, with
        ``report.html``, ``report.md`` and ``report.json``; without training in ``shrink/report.md``.

    Raises: a subclass of OfaSlimError where a stage fails; `StoppedError` after a signal. Finished stages are kept.
    """
    names = stage_names(",".join(stages_of(recipe) if stages is None else stages))
    check_precision(recipe.amp)
    require_paddlenlp("a job on text")
    parallel.start()
    folder = Path(recipe.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    with logged(folder / "run.log" if parallel.is_writer() else None) as log:
        try:
            run = Run(recipe, names)
            with logging_redirect_tqdm():
                run_stages(run, names, overwrite, resume)
            if recipe.training == "none" and parallel.is_writer():
                return shrink_report(run)
            if not parallel.is_writer() or any(not (folder / name / MARK).is_file() for name in REPORTED):
                return None
            stale = [name for name in REPORTED if outdated(folder, STAGES[name]) is not None]
            if stale:
                log.info("no report: %s must be made anew; `ofa-slim compress` does it", " and ".join(stale))
                return None
            table = write_report(run)
            log.info("the report is in %s: report.html, and as text in report.md and report.json", folder)
            return table
        except BaseException as error:
            _log_to_file(log, error)  # the caller prints it
            raise


def _log_to_file(log: logging.Logger, error: BaseException) -> None:
    """Writes an error to the log file only."""
    for handler in log.handlers:
        if isinstance(handler, logging.FileHandler):
            text = f"{type(error).__name__}: {error}"
            handler.handle(log.makeRecord(log.name, logging.ERROR, __file__, 0, text, (), None))


def stage_names(text: str) -> list[str]:
    """The stages of a list with commas."""
    names = [FORMER.get(name.strip(), name.strip()) for name in text.split(",") if name.strip()]
    for name in names:
        if name not in STAGES:
            raise RecipeError(f"--stages: no stage {name!r}; the stages are {', '.join(STAGES)}")
    if not names:
        raise RecipeError(f"--stages names no stage; the stages are {', '.join(STAGES)}")
    return names


def check_precision(amp: str) -> None:
    """Refuses mixed precision that the device does not support: Paddle would silently train without it."""
    device = paddle.device.get_device()
    supported = {
        "off": True,
        "bf16": device != "cpu" and paddle.amp.is_bfloat16_supported(),
        "fp16": device != "cpu" and paddle.amp.is_float16_supported(),
    }
    if not supported[amp]:
        allowed = ", ".join(name for name, there in supported.items() if there)
        raise RecipeError(
            f"key 'amp' is {amp!r}, which Paddle does not support on {device}; it should be one of {allowed}"
        )


def _quiet_paddlenlp() -> None:
    """Only warnings of PaddleNLP, where it is installed, are shown from now on."""
    if find_spec("paddlenlp") is None:
        return
    from paddlenlp.utils.log import logger

    logger.set_level("WARNING")


@contextmanager
def logged(path: Path | None) -> Iterator[logging.Logger]:
    """Logs to the console and a file inside the block, without a file only warnings; of PaddleNLP only warnings."""
    _quiet_paddlenlp()
    console = logging.StreamHandler()
    console.setFormatter(logging.Formatter("%(message)s"))
    handlers: list[logging.Handler] = [console]
    if path is not None:
        handlers.append(logging.FileHandler(path, encoding="utf-8"))
        handlers[-1].setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    log = logging.getLogger("ofa_slim")
    log.setLevel(logging.WARNING if path is None else logging.INFO)
    log.propagate = False
    log.handlers = handlers
    try:
        yield log
    finally:
        log.handlers = []
        log.propagate = True
        for handler in handlers:
            handler.close()
