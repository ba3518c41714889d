"""Checks of what callers give, before anything is done with it.

Each raises the error that it is given, with the name of the argument, its value and what is allowed.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from paddle import nn

from ofa_slim.errors import OfaSlimError


def check_layer(value: Any, name: str, error: type[OfaSlimError]) -> None:
    """Refuses what is not a `paddle.nn.Layer`."""
    if not isinstance(value, nn.Layer):
        raise error(f"{name} is a {type(value).__name__}, not a paddle.nn.Layer")


def check_kind(value: Any, kind: type, name: str, error: type[OfaSlimError]) -> None:
    """Refuses what is not of a class of this library."""
    if not isinstance(value, kind):
        raise error(f"{name} is {value!r}, not a {kind.__name__}")


def check_whole(value: Any, name: str, least: int, error: type[OfaSlimError]) -> None:
    """Refuses what is not a whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise error(f"{name} is {value!r}, not a whole number of at least {least}")


def check_many(value: Any, name: str, what: str, error: type[OfaSlimError]) -> None:
    """Refuses what cannot be gone through, and a text or a dictionary, which would be gone through by its parts."""
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable):
        raise error(f"{name} is {value!r}, not a list of {what}")


def checked_path(value: Any, name: str, error: type[OfaSlimError]) -> Path:
    """The path that a text or a path is."""
    path = os.fspath(value) if isinstance(value, (str, os.PathLike)) else None
    if not isinstance(path, str) or not path:
        raise error(f"{name} is {value!r}, not a path")
    return Path(path)
