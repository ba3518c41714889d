"""Text files: UTF-8 with or without a byte-order mark, or refused with the place of what is not."""

from __future__ import annotations

import codecs
from pathlib import Path

from ofa_slim.errors import DataError

_OTHER_MARKS = {codecs.BOM_UTF32_LE: "UTF-32", codecs.BOM_UTF16_LE: "UTF-16", codecs.BOM_UTF16_BE: "UTF-16"}


def read_bytes(path: Path) -> bytes:
    """The content of a data file; raises DataError where there is none."""
    try:
        if path.is_dir():
            raise DataError(f"{path} is a folder; name a file in it")
        content = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from error
    if not content.strip():
        raise DataError(f"{path} is empty")
    return content


def read_text(path: Path) -> str:
    """The text of a data file.

    Raises: DataError that names the line and the character of a byte that is not UTF-8, or of a NUL byte.
    """
    content = read_bytes(path)
    for mark, name in _OTHER_MARKS.items():
        if content.startswith(mark):
            raise DataError(f"{path} is {name} text; save it as UTF-8")
    content = content.removeprefix(codecs.BOM_UTF8)
    if (zero := content.find(b"\0")) >= 0:
        raise DataError(f"{_place(path, content[:zero])}: a NUL byte; the file is damaged, or not UTF-8 text")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{_place(path, content[: error.start])}: byte 0x{content[error.start]:02X} is not UTF-8 text; save the "
            "file as UTF-8"
        ) from error
    if not text.strip():
        raise DataError(f"{path} is empty")
    return text


def _place(path: Path, before: bytes) -> str:
    line = before[before.rfind(b"\n") + 1 :].decode("utf-8", errors="replace")
    return f"{path}, line {before.count(10) + 1}, character {len(line) + 1}"
