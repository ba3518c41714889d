"""Packages that only the ONNX formats need."""

from __future__ import annotations

import importlib
from typing import Any

from ofa_slim.errors import ExportError


def needed(name: str) -> Any:
    """A package of the ``onnx`` extra.

    Raises: ExportError where it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ExportError(
            f"ONNX needs {getattr(error, 'name', None) or name.partition('.')[0]}, which is not installed: "
            "pip install 'ofa-slim[onnx]'"
        ) from error
