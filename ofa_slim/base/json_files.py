"""JSON from files that somebody else may have written: exact, or refused with the reason."""

from __future__ import annotations

import json
import math
import stat
from pathlib import Path
from typing import Any

MOST_BYTES = 256 << 20
MOST_LEVELS = 200


def read_json(file: Path, *, infinite: bool = False) -> Any:
    """The content of a JSON file.

    Args:
        file: the file; of UTF-8 text.
        infinite: whether NaN and infinity are numbers, as Python writes them.

    Raises: OSError where it cannot be read; ValueError with the reason for anything else than the JSON of one value:
        a key that occurs twice, NaN or infinity, more than 200 levels, more than 256 MB, text that is not UTF-8.
    """
    status = file.stat()
    if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
        raise ValueError("it is a pipe, a socket or a device, not a file")
    size = status.st_size
    if size > MOST_BYTES:
        raise ValueError(f"it has {size:,} bytes; at most {MOST_BYTES:,} are read")
    return parse_json(file.read_text(encoding="utf-8"), infinite=infinite)


def parse_json(text: str, *, infinite: bool = False) -> Any:
    """The value of a JSON text; raises ValueError as `read_json` does."""
    options: dict[str, Any] = {} if infinite else {"parse_constant": _refused, "parse_float": _finite}
    try:
        content = json.loads(text, object_pairs_hook=_unique, **options)
    except RecursionError:
        raise ValueError(f"it is nested deeper than {MOST_LEVELS} levels") from None
    level, levels = [content], 0
    while level := [part for one in level for part in _parts(one)]:
        levels += 1
        if levels > MOST_LEVELS:
            raise ValueError(f"it is nested deeper than {MOST_LEVELS} levels")
    return content


def _parts(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} occurs twice in one object")
    return found


def _refused(text: str) -> float:
    raise ValueError(f"{text} is not a number of JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"the number {text[:20]} is too large")
    return number
