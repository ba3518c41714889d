"""What a finished run offers afterwards: its report anew, and any sub-network that its search scored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ofa_slim.job.page import PAGE
from ofa_slim.job.plan import STAGES
from ofa_slim.job.recipe import Recipe, load_recipe
from ofa_slim.job.report import REPORTED, write_report
from ofa_slim.job.run import Run
from ofa_slim.job.stage_folders import MARK, StageError, outdated, read_json
from ofa_slim.job.writing_stages import ModelWriter
from ofa_slim.supernet import SubnetConfig

PICKED = "picked"


def finished_run(folder: Path) -> Run:
    """The run whose output is in a folder, with the recipe that made it.

    Raises: StageError where a stage that a report needs is missing or was made from other outputs.
    """
    if not folder.is_dir():
        raise StageError(f"{folder}: no such folder; name the output_dir of a run")
    settings: dict[str, Any] = {}
    if (folder / "report.json").is_file():
        settings |= _part(folder / "report.json")
    for name in STAGES:
        if (folder / name / MARK).is_file():
            settings |= _part(folder / name / MARK)
    for name in REPORTED:
        if not (folder / name / MARK).is_file():
            raise StageError(f"{folder} holds no finished run: the output of {name} is not there")
        earlier = outdated(folder, STAGES[name])
        if earlier is not None:
            raise StageError(f"{folder / name} was made from another {earlier}; `ofa-slim compress` makes it anew")
    known = {key: value for key, value in settings.items() if key in Recipe.model_fields}
    return Run(load_recipe(None, {**known, "output_dir": str(folder)}))


def report_of(folder: Path) -> Path:
    """Writes the report of a finished run anew; returns its page.

    Raises: StageError as `finished_run`.
    """
    write_report(finished_run(folder))
    return folder / PAGE


def pick(folder: Path, number: int, formats: list[str] | None = None, target: Path | None = None) -> dict[str, Any]:
    """Writes a sub-network that the search of a finished run scored, in some formats, each checked and scored.

    Args:
        folder: of the run.
        number: of the sub-network, as the page shows it: its place in the search, from 0.
        formats: to write; by default those of the run's recipe.
        target: the folder to write; by default ``picked/<number>`` in the run's.

    Returns: the content of its ``export.json``.

    Raises: StageError for a number that the search does not have, and as `finished_run`.
    """
    run = finished_run(folder)
    points = read_json(folder / "search" / "report.json")["points"]
    if not 0 <= number < len(points):
        raise StageError(f"{folder}: no sub-network {number}; the search scored 0 to {len(points) - 1}")
    target = folder / PICKED / str(number) if target is None else target
    if formats is not None:
        run = Run(load_recipe(None, {**run.recipe.model_dump(mode="json"), "formats": formats}))
    config = SubnetConfig(points[number]["config"])
    ofa, tokenizer = run.supernet()
    train, dev = run.examples(tokenizer)
    writer = ModelWriter(run, target.parent, tokenizer, train, dev)
    with ofa.subnet(config):
        plain = ofa.export(config=config)
        writer.write(target.name, plain, run.recipe.formats, ofa.model, config)
    return writer.records[target.name]


def _part(file: Path) -> dict[str, Any]:
    """The settings in a report or in the mark of a stage."""
    content = read_json(file)
    settings = content.get("settings") if isinstance(content, dict) else None
    if not isinstance(settings, dict):
        raise StageError(f"{file} holds no settings; `ofa-slim compress --overwrite` makes it again")
    return settings
