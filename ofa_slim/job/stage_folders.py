"""Folders of stages: complete or absent, and marked with the settings that made them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ofa_slim.base import json_files
from ofa_slim.base.files import atomic_file, atomic_folder
from ofa_slim.base.settings import differences
from ofa_slim.errors import OfaSlimError
from ofa_slim.job.plan import Stage
from ofa_slim.job.recipe import Recipe

MARK = "stage.json"
RESULTS = "results.json"
OWN_RESULTS = "results.json"  # in the folder of a run of a user's code


class StageError(OfaSlimError, RuntimeError):
    """A stage whose output cannot be used or made."""


@contextmanager
def new_folder(target: Path, mark: Mapping[str, Any]) -> Iterator[Path]:
    """Gives a temporary folder to fill; it replaces `target`, with its mark, if the block succeeds.

    Raises: StageError where another run wrote `target` meanwhile.
    """
    before = _id_of(target)
    with atomic_folder(target) as aside:
        yield aside
        write_json(aside / MARK, mark)
        if _id_of(target) != before:
            raise StageError(f"{target}: another run wrote it meanwhile")


def _id_of(target: Path) -> Any:
    """The id in a folder's mark; None where there is no readable one."""
    try:
        return read_json(target / MARK)["id"]
    except (OSError, KeyError, TypeError, StageError):
        return None


def check_mark(target: Path, settings: Mapping[str, Any]) -> None:
    """Refuses a stage's output that other settings made; the message names them."""
    try:
        mark = read_json(target / MARK)
        made_with = mark["settings"]
        for key, kind in (("settings", dict), ("inputs", dict), ("id", str)):
            if not isinstance(mark[key], kind):
                raise TypeError(f"{key!r} is {mark[key]!r}")
    except (OSError, KeyError, TypeError, StageError) as error:
        raise StageError(
            f"{target}: no readable {MARK}, so it is not the output of a stage; use another --output_dir"
        ) from error
    # What a key of a later version stands for was so by default before there was the key.
    before = {name: field.default for name, field in Recipe.model_fields.items()}
    changes = differences({key: made_with.get(key, before.get(key)) for key in settings}, settings)
    if changes:
        raise StageError(
            f"{target} was made with other settings: {', '.join(changes)}. "
            "Add --overwrite to make it and all that depends on it again, or use another --output_dir"
        )


def outdated(folder: Path, stage: Stage) -> str | None:
    """The earlier stage whose output a stage's own was not made from; None where all are those in `folder`."""
    for earlier, made_from in read_json(folder / stage.name / MARK)["inputs"].items():
        if _id_of(folder / earlier) != made_from:
            return str(earlier)
    return None


def write_json(path: Path, content: object) -> None:
    """Writes JSON aside, then renames."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes text aside, then renames."""
    with atomic_file(path) as aside:
        aside.write_text(text, encoding="utf-8")


def read_json(path: Path) -> Any:
    """Reads JSON of a stage; raises StageError for a file that holds anything else."""
    try:
        return json_files.read_json(path, infinite=True)
    except ValueError as error:
        raise StageError(f"{path} is damaged: {error}; add --overwrite to make it again") from error
