"""What every command does about the libraries that it calls."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from ofa_slim.job.job import logged


def quiet() -> AbstractContextManager[Any]:
    """A block in which other libraries keep silent."""
    return logged(None)
