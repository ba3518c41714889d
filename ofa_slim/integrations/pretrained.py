"""PaddleNLP's pretrained classes: recognised without importing it, rebuilt with it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from paddle import nn

from ofa_slim.errors import ExportError

_PACKAGE = "paddlenlp.transformers"


def is_pretrained(model: nn.Layer) -> bool:
    """Whether a model is of one of PaddleNLP's own classes; does not import PaddleNLP."""
    package = sys.modules.get(_PACKAGE)
    return (
        package is not None
        and isinstance(model, package.PretrainedModel)
        and getattr(package, type(model).__name__, None) is type(model)
    )


def save_config(model: nn.Layer, directory: Path) -> None:
    """Writes the model's ``config.json``."""
    config = model.config
    config.architectures = [type(model).__name__]
    config.save_pretrained(str(directory))


def build(class_name: str, directory: Path) -> nn.Layer:
    """A model of one of PaddleNLP's classes from the ``config.json`` in a directory, with random weights.

    Raises: ExportError for a name that is no model class of PaddleNLP.
    """
    import paddlenlp.transformers as package

    model_class = getattr(package, class_name, None)
    if not isinstance(model_class, type) or not issubclass(model_class, package.PretrainedModel):
        raise ExportError(f"{directory}: {class_name!r} is no model class of PaddleNLP")
    if not (directory / "config.json").is_file():
        raise ExportError(f"{directory}: config.json is not there")
    loaded: Any = model_class
    return loaded(loaded.config_class.from_pretrained(str(directory)))
