"""A finished run, found by its folder, and its report written anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ofa_slim.job.page import PAGE
from ofa_slim.job.plan import STAGES
from ofa_slim.job.recipe import Recipe, load_recipe
from ofa_slim.job.report import REPORTED, write_report
from ofa_slim.job.run import Run
from ofa_slim.job.stage_folders import MARK, OWN_RESULTS, StageError, outdated, read_json


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
    if (folder / OWN_RESULTS).is_file():
        raise StageError(f"{folder} is a run of code of your own: name it with --code, which only pick takes")
    for name in REPORTED:
        if not (folder / name / MARK).is_file():
            raise StageError(f"{folder} holds no finished run: the output of {name} is not there")
        earlier = outdated(folder, STAGES[name])
        if earlier is not None:
            raise StageError(f"{folder / name} was made from another {earlier}; `ofa-slim compress` makes it anew")
    # Some defaults depend on the data, so what is a default is left to be one.
    fields = Recipe.model_fields
    own = {key: value for key, value in settings.items() if key in fields and value != fields[key].default}
    return Run(load_recipe(None, {**own, "output_dir": str(folder)}))


def report_of(folder: Path) -> Path:
    """Writes the report of a finished run anew; returns its page.

    Raises: StageError as `finished_run`.
    """
    write_report(finished_run(folder))
    return folder / PAGE


def _part(file: Path) -> dict[str, Any]:
    """The settings in a report or in the mark of a stage."""
    content = read_json(file)
    settings = content.get("settings") if isinstance(content, dict) else None
    if not isinstance(settings, dict):
        raise StageError(f"{file} holds no settings; `ofa-slim compress --overwrite` makes it again")
    return settings
