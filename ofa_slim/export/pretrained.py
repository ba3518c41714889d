"""PaddleNLP's pretrained classes: recognised without importing it, rebuilt with it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from paddle import nn

from ofa_slim.base.foreign import model_config
from ofa_slim.base.optional import require_paddlenlp
from ofa_slim.errors import ExportError

_PACKAGE = "paddlenlp.transformers"

# Entries that the config of a model whose depth was cut does not have right: TinyBERT keeps a layer for each hidden
# state of the original, and one more.
_BUILT_WITH: dict[str, Callable[[Any], dict[str, int]]] = {
    "tinybert": lambda base: {"num_hidden_layers": len(base.fit_denses) - 1},
}


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


def built_with(model: nn.Layer) -> dict[str, int]:
    """The entries of its config that a model has to be built with again, where they differ from those of now."""
    entries = _BUILT_WITH.get(model.base_model_prefix)
    return {} if entries is None else entries(getattr(model, model.base_model_prefix, model))


def build(class_name: str, directory: Path, entries: Mapping[str, int]) -> nn.Layer:
    """A model of one of PaddleNLP's classes with random weights.

    Args:
        class_name: of the model.
        directory: that holds its ``config.json``.
        entries: of its config, from `built_with`.

    Raises: ExportError for a name that is not a model class of PaddleNLP.
    """
    require_paddlenlp(f"the class {class_name!r}")
    import paddlenlp.transformers as package

    model_class = getattr(package, class_name, None) if isinstance(class_name, str) else None
    if not isinstance(model_class, type) or not issubclass(model_class, package.PretrainedModel):
        raise ExportError(f"{directory}: {class_name!r} is not a model class of PaddleNLP")
    if not (directory / "config.json").is_file():
        raise ExportError(f"{directory}: config.json is not there")
    if not isinstance(entries, Mapping) or not set(entries) <= {"num_hidden_layers"}:
        raise ExportError(f"{directory}: 'built_with' is {entries!r}; it can hold 'num_hidden_layers' alone")
    model_config(directory / "config.json", ExportError, entries)
    loaded: Any = model_class
    try:
        return loaded(loaded.config_class.from_pretrained(str(directory), **entries))
    except Exception as error:  # whatever PaddleNLP's classes raise for values that they cannot use
        raise ExportError(f"{directory}: PaddleNLP cannot make a {class_name} of config.json ({error})") from error
