"""Files that are either there and whole or not there: written aside, then renamed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_file(file: Path) -> Iterator[Path]:
    """The path of a file beside another, to write; it takes that one's place when the block ends well.

    Each process has a name of its own for it, so that several may write the same file: the last one stays.
    """
    aside = file.with_name(f".{file.name}.{os.getpid()}.partial")
    try:
        yield aside
        aside.replace(file)
    finally:
        aside.unlink(missing_ok=True)
