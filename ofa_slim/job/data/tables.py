"""Tables of rows from files of several kinds; every row knows the line that it is from."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ofa_slim.base.json_files import parse_json
from ofa_slim.errors import DataError, nearest
from ofa_slim.job.data.text_files import read_bytes, read_text


@dataclass(frozen=True)
class Table:
    """The rows of a file.

    Attributes:
        path: the file.
        names: of its columns, in order.
        rows: the cells of each row by the name of the column; a row of JSON may lack some.
        lines: the line of the file at which each row begins, from 1; elsewhere the number of the row.
        unit: "line", "row" or "question".
    """

    path: Path
    names: tuple[str, ...]
    rows: Sequence[dict[str, Any]]
    lines: Sequence[int]
    unit: str = "line"

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.rows)

    def place(self, row: int, column: str | None = None) -> str:
        """Where a row, or a cell of it, is, for messages."""
        where = f"{self.path}, {self.unit} {self.lines[row]}"
        return where if column is None else f"{where}, column {column!r}"

    def column(self, name: str, key: str) -> list[Any]:
        """The cells of a column.

        Args:
            name: of the column.
            key: the recipe's key that names it, for messages.

        Raises: DataError for a column that the file, or a row of it, does not have.
        """
        if name not in self.names:
            known = ", ".join(map(repr, self.names))
            raise DataError(
                f"{self.path}, {self.unit} {1 if self.unit == 'line' else self.lines[0]}: no column {name!r}"
                f"{nearest(name, self.names)}; the columns are {known}; data.{key} names the one to read"
            )
        for number, row in enumerate(self.rows):
            if name not in row:
                raise DataError(f"{self.place(number)}: no {name!r}")
        return [row[name] for row in self.rows]


def read_table(path: Path, delimiter: str | None = None) -> Table:
    """Reads a file of the kind that its ending says.

    Args:
        path: the file.
        delimiter: of the columns of a ``.csv``; None: a comma.

    Raises: DataError that names the file, the line and what is wrong, for a file that is missing, has no rows, or is
        not of its kind.
    """
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{path}: {path.suffix or 'no ending'!r} is not one of {', '.join(READERS)}")
    table = reader(path, delimiter)
    if not table.rows:
        raise DataError(f"{path} has no rows")
    return table


def _csv(path: Path, delimiter: str | None) -> Table:
    return _separated(path, delimiter or ",", csv.QUOTE_MINIMAL)


def _tsv(path: Path, delimiter: str | None) -> Table:
    return _separated(path, delimiter or "\t", csv.QUOTE_NONE)


def _separated(path: Path, delimiter: str, quoting: Any) -> Table:
    records = _records(path, delimiter, quoting)
    line, names = next(records)
    names = [name.strip() for name in names]
    for position, name in enumerate(names, start=1):
        if not name:
            raise DataError(f"{path}, line {line}: column {position} has no name")
        if names.count(name) > 1:
            raise DataError(f"{path}, line {line}: {names.count(name)} columns are called {name!r}")
    rows, lines = [], []
    for line, cells in records:
        if len(cells) != len(names):
            columns = f"{len(names)} columns ({', '.join(names)})"
            raise DataError(f"{path}, line {line}: {len(cells)} cells, but the header names {columns}")
        rows.append(dict(zip(names, cells, strict=True)))
        lines.append(line)
    return Table(path, tuple(names), rows, lines)


def _records(path: Path, delimiter: str, quoting: Any) -> Iterator[tuple[int, list[str]]]:
    """The cells of each record that is not blank, with the line at which it begins."""
    text = read_text(path)
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, quoting=quoting, strict=True)
    begin = 1
    try:
        for cells in reader:
            if cells:
                yield begin, cells
            begin = reader.line_num + 1
    except csv.Error as error:
        if "unexpected end of data" in str(error):
            raise DataError(f"{path}, line {begin}: a quote that opens here is never closed") from error
        raise DataError(f"{path}, line {begin}: not valid CSV ({error})") from error


def _json_lines(path: Path, _: str | None) -> Table:
    rows, lines = [], []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = parse_json(line)
        except ValueError as error:
            raise DataError(f"{path}, line {number}: not valid JSON ({error})") from error
        if not isinstance(row, dict):
            raise DataError(f'{path}, line {number}: not an object such as {{"text": "...", "label": "..."}}')
        rows.append(row)
        lines.append(number)
    return Table(path, tuple(dict.fromkeys(name for row in rows for name in row)), rows, lines)


def _json(path: Path, _: str | None) -> Table:
    """One of SQuAD's files, or JSON lines."""
    text = read_text(path)
    try:
        content = parse_json(text)
    except ValueError:
        return _json_lines(path, None)
    if not isinstance(content, dict) or not isinstance(content.get("data"), list):
        return _json_lines(path, None)
    rows: list[dict[str, Any]] = []
    for number, article in enumerate(content["data"]):
        paragraphs = article.get("paragraphs") if isinstance(article, dict) else None
        if not isinstance(paragraphs, list):
            raise DataError(f"{path}: data[{number}] has no list 'paragraphs'")
        for place, paragraph in enumerate(paragraphs):
            asked = paragraph.get("qas") if isinstance(paragraph, dict) else None
            if not isinstance(asked, list) or not all(isinstance(one, dict) for one in asked):
                raise DataError(f"{path}: data[{number}].paragraphs[{place}] has no list 'qas' of objects")
            rows += [
                {"question": one.get("question"), "context": paragraph.get("context"), "answers": one.get("answers")}
                for one in asked
            ]
    return Table(path, ("question", "context", "answers"), rows, range(1, len(rows) + 1), "question")


def _parquet(path: Path, _: str | None) -> Table:
    from pyarrow import ArrowException
    from pyarrow.parquet import read_table as read_parquet

    read_bytes(path)
    try:
        found = read_parquet(path)
    except (ArrowException, OSError) as error:
        raise DataError(f"{path}: not a Parquet file ({str(error).splitlines()[0]})") from error
    rows = found.to_pylist()
    return Table(path, tuple(found.column_names), rows, range(1, len(rows) + 1), "row")


def _conll(path: Path, _: str | None) -> Table:
    """Sentences of lines with a token first and its tag last, between blank lines."""
    rows: list[dict[str, Any]] = []
    lines: list[int] = []
    inside = False
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        cells = line.split()
        if not cells or cells[0] == "-DOCSTART-":
            inside = False
            continue
        if len(cells) < 2:
            raise DataError(f"{path}, line {number}: {cells[0]!r} has no tag beside it")
        if not inside:
            rows.append({"tokens": [], "tags": []})
            lines.append(number)
        inside = True
        rows[-1]["tokens"].append(cells[0])
        rows[-1]["tags"].append(cells[-1])
    return Table(path, ("tokens", "tags"), rows, lines)


def _plain_text(path: Path, _: str | None) -> Table:
    """A text in each line that is not blank."""
    lines = [(number, line) for number, line in enumerate(read_text(path).split("\n"), start=1) if line.strip()]
    return Table(path, ("text",), [{"text": line.rstrip("\r")} for _, line in lines], [number for number, _ in lines])


READERS: dict[str, Callable[[Path, str | None], Table]] = {
    ".csv": _csv,
    ".tsv": _tsv,
    ".jsonl": _json_lines,
    ".json": _json,
    ".parquet": _parquet,
    ".conll": _conll,
    ".txt": _plain_text,
}
