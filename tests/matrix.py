"""Runs the tests on each release of Paddle in an environment of its own, and prints a table: `make matrix`.

A cell of the matrix is a release of Paddle, a Python and, where wanted, a release of PaddleNLP. Its environment and its
logs are in `.matrix/`; the environment is made anew when `pyproject.toml` has changed. Needs nothing but the standard
library.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".matrix"


@dataclass(frozen=True)
class Cell:
    """Releases of Paddle and PaddleNLP, such as 3.3.1 ("": the one that pip chooses), and a Python, such as 3.11."""

    paddle: str
    python: str = "3.11"
    paddlenlp: str = ""

    @property
    def name(self) -> str:
        return f"{self.paddle}-python{self.python}" + (f"-paddlenlp{self.paddlenlp}" if self.paddlenlp else "")

    @property
    def environment(self) -> Path:
        return FOLDER / self.name

    def file(self, name: str) -> Path:
        """A file beside the environment, which outlives it."""
        return FOLDER / f"{self.name}.{name}"

    def call(self, log: str, *arguments: str) -> int:
        """Runs the environment's Python with its output in a log; the exit code."""
        command = [str(self.environment / "bin" / "python"), *arguments]
        with self.file(log).open("wb") as file:
            return subprocess.run(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, check=False).returncode


# What the README says is supported: the last patch of every minor release that pyproject.toml allows, the other
# Pythons on the newest (3.13 gets no PaddleNLP), and PaddleNLP's beta, which needs NumPy 1, as 3.12 has it.
CELLS = (
    Cell("3.0.0"),
    Cell("3.1.1"),
    Cell("3.2.2"),
    Cell("3.3.1"),
    Cell("3.3.1", "3.10"),
    Cell("3.3.1", "3.12"),
    Cell("3.3.1", "3.13"),
    Cell("3.3.1", "3.12", "3.0.0b4"),
)


@dataclass(frozen=True)
class Row:
    """How the tests went in a cell."""

    cell: Cell
    paddlenlp: str
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    good: bool = False

    def __str__(self) -> str:
        values = (self.cell.paddle, self.cell.python, self.paddlenlp, self.passed, self.failed, self.skipped)
        return f"| {' | '.join(map(str, values))} |"


# As `make test` runs them.
TOGETHER = ("--numprocesses=auto", "--maxprocesses=4", "--dist=loadfile")


class CellError(Exception):
    """Why the tests of a cell did not run."""


def main() -> int:
    parser = argparse.ArgumentParser(description="Run the tests on each release of Paddle and print a table.")
    parser.add_argument(
        "cells",
        nargs="*",
        type=parse_cell,
        help="such as 3.2.2, 3.3.1-python3.12 or 3.3.1-python3.12-paddlenlp3.0.0b4 (default: all)",
    )
    parser.add_argument("--pytest", type=shlex.split, default=[], help="its arguments, as in --pytest='-x -k export'")
    arguments = parser.parse_args()
    FOLDER.mkdir(exist_ok=True)
    rows = []
    for cell in arguments.cells or CELLS:
        print(f"{cell.name}, logs in {cell.file('*')}", file=sys.stderr)
        try:
            rows.append(run(cell, arguments.pytest))
        except CellError as error:
            rows.append(Row(cell, f"not run: {error}"))
    print("| Paddle | Python | PaddleNLP | passed | failed | skipped |")
    print("| --- | --- | --- | ---: | ---: | ---: |")
    print(*rows, sep="\n")
    return 0 if all(row.good for row in rows) else 1


def parse_cell(text: str) -> Cell:
    match = re.fullmatch(r"(\d+\.\d+\.\d+)(?:-python(\d+\.\d+))?(?:-paddlenlp(\S+))?", text)
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is neither like 3.3.1 nor like 3.3.1-python3.12")
    return Cell(match[1], match[2] or Cell.python, match[3] or "")


def run(cell: Cell, options: Sequence[str]) -> Row:
    """Runs the tests of a cell, without those that need PaddleNLP where it does not import."""
    install(cell)
    code = "import importlib.metadata, paddlenlp; print(importlib.metadata.version('paddlenlp'))"
    imports = cell.call("paddlenlp.log", "-W", "ignore", "-c", code) == 0
    version = last_word(cell.file("paddlenlp.log"))
    if not imports:
        version = "none" if "No module named 'paddlenlp'" in version else f"does not import: {version}"
        options = ["--without-paddlenlp", *options]
    report = cell.file("junit.xml")
    report.unlink(missing_ok=True)
    status = cell.call("pytest.log", "-m", "pytest", f"--junitxml={report}", *TOGETHER, *options)
    if not report.is_file():
        raise CellError(f"pytest: {last_word(cell.file('pytest.log'))}")
    counts = ElementTree.parse(report).find("testsuite").attrib
    failed, skipped = int(counts["failures"]) + int(counts["errors"]), int(counts["skipped"])
    return Row(cell, version, int(counts["tests"]) - failed - skipped, failed, skipped, good=status == 0)


def install(cell: Cell) -> None:
    """Installs the project as pip does it for those who ask for this release of Paddle."""
    stamp = cell.environment / "installed"
    state = f"{hashlib.sha256((ROOT / 'pyproject.toml').read_bytes()).hexdigest()} {ROOT}\n"
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == state:
        return
    subprocess.run([find_python(cell.python), "-m", "venv", "--clear", str(cell.environment)], check=True)
    constraint = cell.file("constraint.txt")
    wanted = [f"paddlepaddle=={cell.paddle}"] + ([f"paddlenlp=={cell.paddlenlp}"] if cell.paddlenlp else [])
    constraint.write_text("\n".join(wanted) + "\n", encoding="utf-8")
    install = ("-m", "pip", "--disable-pip-version-check", "install", "--constraint", str(constraint))
    if cell.call("pip.log", *install, "--editable", ".[dev,demo]"):
        raise CellError(f"pip: {last_word(cell.file('pip.log'))}")
    stamp.write_text(state, encoding="utf-8")


def find_python(version: str) -> str:
    """The name of a Python of that version that can make virtual environments."""
    code = "import ensurepip, sys, venv; print(*sys.version_info[:2], sep='.')"
    for name in (f"python{version}", "python3", sys.executable):
        if shutil.which(name):
            done = subprocess.run([name, "-c", code], capture_output=True, text=True, check=False)
            if done.stdout.strip() == version:
                return name
    raise CellError(f"no python{version} with its venv module on the path")


def last_word(log: Path) -> str:
    """What a log ends on: the first line that pip or pytest calls an error, else the last line."""
    text = log.read_text(encoding="utf-8", errors="replace").replace("|", "/")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return next((line for line in lines if line.startswith("ERROR:")), lines[-1] if lines else "no output")


if __name__ == "__main__":
    sys.exit(main())
