"""Written models, opened for use: the same call whatever the format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from ofa_slim.base.threads import threads, threads_kept
from ofa_slim.errors import ExportError
from ofa_slim.export.formats.reader import OPENERS, Inputs

CARD_FILE = "format.json"


class Opened:
    """A written model, ready to run.

    Args:
        folder: of one format, as `write_formats` makes them.

    Attributes:
        folder: that folder.
        format: its name.
        card: the content of ``format.json``.

    Raises: ExportError for a folder without such a model, or files that its engine cannot read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.card = read_card(folder)
        self.format = str(self.card["format"])
        try:
            with threads_kept():
                self._run = OPENERS[self.card["opener"]](folder, self.card.get("build"), threads())
        except ExportError:
            raise
        except Exception as error:  # each engine has errors of its own
            said = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
            raise ExportError(f"{folder}: the {self.format} files cannot be read ({said[:200]})") from error

    def __call__(self, inputs: Inputs) -> list[np.ndarray]:
        """The outputs, in order, for inputs by name.

        Raises: ExportError for an input that is missing.
        """
        wanted = self.card["inputs"]
        for name in wanted:
            if name not in inputs:
                raise ExportError(f"{self.folder}: no input {name!r}; the model has {', '.join(wanted)}")
        with threads_kept():
            return self._run({name: inputs[name] for name in wanted})


def read_card(folder: Path) -> dict[str, Any]:
    """The content of a folder's ``format.json``; raises ExportError for a folder that `write_formats` did not write."""
    file = folder / CARD_FILE
    if not folder.is_dir():
        raise ExportError(f"{folder}: no such directory")
    if not file.is_file():
        inside = sorted(path.parent.name for path in folder.glob(f"*/{CARD_FILE}"))
        more = f"; it holds the formats {', '.join(inside)}: name one of these folders" if inside else ""
        raise ExportError(f"{folder} holds no written model: {CARD_FILE} is not there{more}")
    try:
        card = json.loads(file.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ExportError(f"{file} is not readable as JSON: {error}") from error
    if not isinstance(card, dict) or not {"format", "opener", "inputs"} <= set(card) or card["opener"] not in OPENERS:
        raise ExportError(f"{file} does not describe a written model")
    return card
