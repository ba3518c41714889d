"""Written models, opened for use: the same call whatever the format."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import nn

from ofa_slim.base.predictor import Predictor
from ofa_slim.errors import ExportError
from ofa_slim.export.formats.onnx import ONNX_FILE, open_session
from ofa_slim.export.formats.reader import tensors_of
from ofa_slim.export.subnet_files import load_subnet

CARD_FILE = "format.json"

Inputs = Mapping[str, np.ndarray]
Run = Callable[[Inputs], list[np.ndarray]]


class Opened:
    """A written model, ready to run.

    Args:
        folder: of one format, as `write_formats` makes them.

    Attributes:
        folder: that folder.
        format: its name.
        card: what ``format.json`` says.

    Raises: ExportError for a folder that holds no such model, or files that its engine does not read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.card = read_card(folder)
        self.format = str(self.card["format"])
        try:
            self._run = _OPENERS[self.card["opener"]](folder, self.card)
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
        return self._run({name: inputs[name] for name in wanted})


def read_card(folder: Path) -> dict[str, Any]:
    """What ``format.json`` says of a folder; raises ExportError where it is none of `write_formats`."""
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
    if not isinstance(card, dict) or not {"format", "opener", "inputs"} <= set(card) or card["opener"] not in _OPENERS:
        raise ExportError(f"{file} does not describe a written model")
    return card


def layer_run(model: nn.Layer) -> Run:
    """A Paddle model called with arrays."""

    @paddle.no_grad()
    def run(inputs: Inputs) -> list[np.ndarray]:
        output = model(**{name: paddle.to_tensor(value) for name, value in inputs.items()})
        return [tensor.numpy() for tensor in tensors_of(output, paddle.Tensor)]

    return run


def _plain(folder: Path, card: Mapping[str, Any]) -> Run:
    return layer_run(load_subnet(folder, built(card.get("build"))))


def built(name: str | None) -> nn.Layer | None:
    """A model by the ``module:function`` that makes it."""
    if name is None:
        return None
    module, _, function = name.partition(":")
    model: nn.Layer = getattr(importlib.import_module(module), function)()
    return model


def _inference(folder: Path, card: Mapping[str, Any]) -> Run:
    predictor = Predictor(folder, onednn=True)
    return lambda inputs: predictor({name: np.ascontiguousarray(value) for name, value in inputs.items()})


def _onnx(folder: Path, card: Mapping[str, Any]) -> Run:
    session = open_session(folder / ONNX_FILE)
    names = {wanted.name for wanted in session.get_inputs()}
    return lambda inputs: list(session.run(None, {name: inputs[name] for name in inputs if name in names}))


_OPENERS: dict[str, Callable[[Path, Mapping[str, Any]], Run]] = {
    "plain": _plain,
    "inference": _inference,
    "onnx": _onnx,
}
