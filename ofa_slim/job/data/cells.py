"""What the cells of a table mean: texts, labels, numbers, tags; each that is wrong is named with its place."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

from ofa_slim.errors import DataError, nearest
from ofa_slim.job.data.tables import Table

Value = TypeVar("Value")


def texts(table: Table, column: str, key: str) -> list[str]:
    """The texts of a column; raises DataError for an empty one, or a cell that is no text."""

    def text(cell: Any) -> str:
        if cell is None or (isinstance(cell, str) and not cell.strip()):
            raise ValueError("the text is empty")
        if not isinstance(cell, str):
            raise ValueError(f"{cell!r} is not a text")
        if "\0" in cell:
            raise ValueError("a NUL character")
        return cell

    return _each(table, column, key, text)


def labels(table: Table, column: str) -> list[str]:
    """The labels of a column, without spaces around them; raises DataError for an empty one."""
    return _each(table, column, "label", label_of)


def label_sets(table: Table, column: str, separator: str) -> list[list[str]]:
    """The labels of each row, from a list or from text with a separator; an empty cell is a row without labels."""

    def several(cell: Any) -> list[str]:
        if cell is None:
            return []
        parts = cell.split(separator) if isinstance(cell, str) else cell
        if not isinstance(parts, list):
            raise ValueError(f"{cell!r} is not a list of labels")
        if isinstance(cell, str) and not cell.strip():
            return []
        return [label_of(part) for part in parts]

    return _each(table, column, "label", several)


def flags(table: Table, column: str) -> list[bool]:
    """The cells of a column of 0 and 1."""

    def flag(cell: Any) -> bool:
        if str(cell).strip() not in ("0", "1", "True", "False"):
            raise ValueError(f"{cell!r} is neither 0 nor 1")
        return str(cell).strip() in ("1", "True")

    return _each(table, column, "label", flag)


def numbers(table: Table, column: str) -> list[float]:
    """The finite numbers of a column."""

    def number(cell: Any) -> float:
        try:
            value = float(cell)
        except (TypeError, ValueError):
            raise ValueError("the number is empty" if cell in (None, "") else f"{cell!r} is not a number") from None
        if not math.isfinite(value):
            raise ValueError(f"{cell!r} is not a finite number")
        return value

    return _each(table, column, "label", number)


def words(table: Table, column: str, key: str) -> list[list[str]]:
    """The lists of texts of a column, none empty."""

    def listed(cell: Any) -> list[str]:
        if not isinstance(cell, list) or not all(isinstance(word, str) for word in cell):
            raise ValueError(f"{cell!r} is not a list of texts")
        if not cell:
            raise ValueError("the list is empty")
        for position, word in enumerate(cell, start=1):
            if not word.strip():
                raise ValueError(f"entry {position} is empty")
        return cell

    return _each(table, column, key, listed)


def answers(table: Table, column: str, contexts: Sequence[str]) -> np.ndarray:
    """Where the first answer of each row begins and ends in its context, int64 [rows, 2]; -1 for one without an answer.

    A cell is a text that the context has, a list of texts or of SQuAD's ``{"text": ..., "answer_start": ...}``, or an
    object of two lists. The place of a mere text is its first one.
    """
    given = iter(contexts)

    def place(cell: Any) -> tuple[int, int]:
        context = next(given)
        if isinstance(cell, dict):
            cell = [
                {"text": text, "answer_start": start}
                for text, start in zip(cell.get("text", []), cell.get("answer_start", []), strict=False)
            ]
        first = (cell[0] if cell else None) if isinstance(cell, list) else cell
        text = first.get("text") if isinstance(first, dict) else first
        start = first.get("answer_start") if isinstance(first, dict) else None
        if text is None or text == "":
            return -1, -1
        if not isinstance(text, str) or not (start is None or type(start) is int):
            raise ValueError(f"{first!r} is not an answer")
        return _place_in(context, text, start, "answer")

    return np.array(_each(table, column, "answers", place), dtype=np.int64)


def spans(table: Table, column: str, contexts: Sequence[str]) -> list[np.ndarray]:
    """Where the spans of each row begin and end in its context, int64 [spans, 2] for each row.

    A cell is a list of texts that the context has, or of UIE's ``{"text": ..., "start": ..., "end": ...}``; an empty
    one is a row without a span.
    """
    given = iter(contexts)

    def place(context: str, one: Any) -> tuple[int, int]:
        text, start = (one.get("text"), one.get("start")) if isinstance(one, dict) else (one, None)
        if not isinstance(text, str) or not text or not (start is None or type(start) is int):
            raise ValueError(f"{one!r} is not a span")
        return _place_in(context, text, start, "span")

    def places(cell: Any) -> np.ndarray:
        context = next(given)
        if cell is None or cell == "":
            cell = []
        if not isinstance(cell, list):
            raise ValueError(f"{cell!r} is not a list of spans")
        return np.array([place(context, one) for one in cell], dtype=np.int64).reshape(-1, 2)

    return _each(table, column, "answers", places)


def _place_in(context: str, text: str, start: int | None, what: str) -> tuple[int, int]:
    """Where a text begins and ends in its context; by default its first place."""
    if start is None:
        start = context.find(text)
    if start < 0 or context[start : start + len(text)] != text:
        raise ValueError(f"the {what} {text!r} is not in its context at its place")
    return start, start + len(text)


def classes(table: Table, column: str, found: Sequence[Sequence[str]], known: Sequence[str]) -> list[np.ndarray]:
    """The number of each label, int64 for each row; raises DataError for a label that is not known."""
    number = {label: position for position, label in enumerate(known)}
    for row, names in enumerate(found):
        for name in names:
            if name not in number:
                some = ", ".join(map(repr, known[:8])) + (", ..." if len(known) > 8 else "")
                raise DataError(
                    f"{table.place(row, column)}: label {name!r} is not one of the training labels ({some})"
                    f"{nearest(name, known)}"
                )
    return [np.array([number[name] for name in names], dtype=np.int64) for names in found]


def label_of(cell: Any) -> str:
    """The text of a label; raises ValueError for an empty one, or a value that is no label."""
    if isinstance(cell, float) and math.isfinite(cell) and cell == int(cell):
        cell = int(cell)  # tables with gaps hold whole numbers as 1.0
    if isinstance(cell, (bool, int)):
        return str(cell)
    if cell is None or (isinstance(cell, float) and math.isnan(cell)) or (isinstance(cell, str) and not cell.strip()):
        raise ValueError("the label is empty")
    if not isinstance(cell, str):
        raise ValueError(f"{cell!r} is not a label")
    return cell.strip()


def _each(table: Table, column: str, key: str, read: Callable[[Any], Value]) -> list[Value]:
    """Reads every cell; one message for the first that is wrong, with the number of others."""
    values, wrong = [], []
    for row, cell in enumerate(table.column(column, key)):
        try:
            values.append(read(cell))
        except ValueError as error:
            wrong.append(f"{table.place(row, column)}: {error}")
    if wrong:
        more = f" ({len(wrong) - 1} more such rows)" if len(wrong) > 1 else ""
        raise DataError(wrong[0] + more)
    return values
