"""Written models, opened for use: the same call whatever the format."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from paddle import nn

from ofa_slim.base.foreign import check_contents, file_name
from ofa_slim.base.input_types import as_type
from ofa_slim.base.json_files import read_json
from ofa_slim.base.threads import threads, threads_kept
from ofa_slim.errors import ExportError
from ofa_slim.export.formats.predict import ENGINES, Inputs, Run
from ofa_slim.export.formats.reader import layer_run
from ofa_slim.export.subnet_files import load_subnet

CARD_FILE = "format.json"
OPENERS = ("plain", *ENGINES)


class Opened:
    """A written model, ready to run.

    Args:
        folder: of one format, as `write_formats` makes them.
        build: makes a model of the original sizes, for the plain format of one that is not of PaddleNLP. The folder
            names such a function too, but code that a file names is not run.

    Attributes:
        folder: that folder.
        format: its name.
        card: the content of ``format.json``.

    Raises: ExportError for a folder without such a model, or files that its engine cannot read.
    """

    def __init__(self, folder: Path, build: Callable[[], nn.Layer] | None = None) -> None:
        self.folder = folder
        self.card = read_card(folder)
        self.format = str(self.card["format"])
        try:
            with threads_kept():
                if self.card["opener"] == "plain":
                    self._run: Run = layer_run(load_subnet(folder, built(folder, self.card, build)))
                else:
                    self._run = ENGINES[self.card["opener"]](folder, threads())
        except ExportError:
            raise
        except Exception as error:  # each engine has errors of its own
            raise ExportError(f"{folder}: the {self.format} files cannot be read ({_first_line(error)})") from error

    def __call__(self, inputs: Inputs) -> Sequence[np.ndarray]:
        """The outputs, in order, for inputs by name; integers may be of another size than the model's.

        Raises: ExportError for an input that is missing, is of another kind of type, or that the engine cannot run.
        """
        wanted = self.card["inputs"]
        for name in wanted:
            if name not in inputs:
                raise ExportError(f"{self.folder}: no input {name!r}; the model has {', '.join(wanted)}")
        arrays = {name: as_type(name, inputs[name], kind) for name, kind in wanted.items()}
        try:
            with threads_kept():
                return self._run(arrays)
        except Exception as error:  # each engine has errors of its own
            shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in arrays.items())
            raise ExportError(f"{self.folder}: the model cannot run on {shapes} ({_first_line(error)})") from error


def built(folder: Path, card: dict[str, Any], build: Callable[[], nn.Layer] | None) -> nn.Layer | None:
    """A new model for a plain format that needs one; None where PaddleNLP makes it.

    Raises: ExportError where a folder needs a function and none is given.
    """
    if card.get("build") is None:
        return None
    if build is None:
        raise ExportError(
            f"{folder / CARD_FILE} says that {card['build']!r} builds the model, and code that a file names is not "
            "run; if you know it, import it yourself and give it as build="
        )
    return build()


def _first_line(error: Exception) -> str:
    """The first line of an error that says anything, cut to 200 characters."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:200]


def read_card(folder: Path) -> dict[str, Any]:
    """The content of a folder's ``format.json``; raises ExportError for a folder that `write_formats` did not write."""
    file = folder / CARD_FILE
    if not folder.is_dir():
        raise ExportError(f"{folder}: no such directory")
    if not file.is_file():
        inside = sorted(path.parent.name for path in folder.glob(f"*/{CARD_FILE}"))
        more = f"; it holds the formats {', '.join(inside)}: name one of these folders" if inside else ""
        raise ExportError(f"{folder} holds no written model: {CARD_FILE} is not there{more}")
    check_contents(folder, ExportError)
    try:
        card = read_json(file)
    except (OSError, ValueError) as error:
        raise ExportError(f"{file} is not readable as JSON: {error}") from error
    if not isinstance(card, dict) or not {"format", "opener", "inputs"} <= set(card):
        raise ExportError(f"{file} does not describe a written model")
    if not isinstance(card["opener"], str) or card["opener"] not in OPENERS:
        raise ExportError(f"{file}: 'opener' is {card['opener']!r}, not one of {', '.join(OPENERS)}")
    if not file_name(card["format"]):
        raise ExportError(f"{file}: 'format' is {card['format']!r}, not the name of a format")
    if not isinstance(card["inputs"], dict) or not all(_is_type(kind) for kind in card["inputs"].values()):
        raise ExportError(f"{file}: 'inputs' is {card['inputs']!r}, not the type of each input by its name")
    if not isinstance(card.get("build"), (str, type(None))):
        raise ExportError(f"{file}: 'build' is {card['build']!r}, not 'module:function' or null")
    return card


def _is_type(name: object) -> bool:
    try:
        return isinstance(name, str) and np.dtype(name).kind in "biuf"
    except TypeError:
        return False
