"""PaddleSlim 2.6.0 on Paddle 2.6.2 in an environment of its own, and its worker process (`paddleslim_worker.py`).

Run as a script, this makes the environment; the benchmarks that need it make it where it is not there.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "runs/paddleslim-env"
WORKER = Path(__file__).with_name("paddleslim_worker.py")
PACKAGES = (
    "paddlepaddle==2.6.2",
    "paddleslim==2.6.0",
    # What the two need beyond what they declare, or in a version of their time.
    "numpy<2",
    "setuptools<80",
    "six",
    "requests",
)
PYTHONS = ("python3.11", "python3.10")
SUITABLE = "import sys, venv, ensurepip; sys.exit(sys.version_info[:2] not in ((3, 10), (3, 11)))"

# Threads of the math library go on spinning for 0.2 s behind a step; the next side should not feel it.
SETTLE_SECONDS = 0.5


class PaddleSlimError(Exception):
    """An environment that cannot be made, or a worker that died."""


def environment() -> Path:
    """The Python of PaddleSlim's environment, which is made where it is not there.

    Raises: PaddleSlimError without a suitable Python, or where the packages cannot be installed.
    """
    python, stamp = FOLDER / "bin/python", FOLDER / "installed.txt"
    wanted = "\n".join(PACKAGES)
    if stamp.is_file() and stamp.read_text() == wanted:
        return python
    print(f"Making {FOLDER} and installing PaddleSlim into it (about 1.1 GB)", flush=True)
    shutil.rmtree(FOLDER, ignore_errors=True)
    for command in (
        [_suitable_python(), "-m", "venv", str(FOLDER)],
        [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PACKAGES],
    ):
        if subprocess.run(command, check=False).returncode:
            raise PaddleSlimError(f"{' '.join(command)} failed; its message is above")
    stamp.write_text(wanted)
    return python


def _suitable_python() -> str:
    for candidate in (sys.executable, *PYTHONS):
        path = shutil.which(candidate)
        if path and not subprocess.run([path, "-c", SUITABLE], capture_output=True, check=False).returncode:
            return path
    raise PaddleSlimError(f"PaddleSlim needs Python 3.10 or 3.11; none of these is one: {', '.join(PYTHONS)}")


class Worker:
    """A process that does one training step whenever it is asked, and waits otherwise.

    Args:
        command: runs it. It writes a line when it is ready, and the seconds of a step for each length it reads.

    Raises: PaddleSlimError where it ends before it is ready.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self._process = subprocess.Popen(
            list(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        self._answer()

    def step(self, length: int) -> float:
        """Seconds of one step on a batch of rows of this length, tokens; the caller waits.

        Raises: PaddleSlimError where the worker died.
        """
        time.sleep(SETTLE_SECONDS)
        try:
            self._process.stdin.write(f"{length}\n")
        except BrokenPipeError:
            raise self._died() from None
        seconds = float(self._answer())
        time.sleep(SETTLE_SECONDS)
        return seconds

    def _answer(self) -> str:
        line = self._process.stdout.readline()
        if not line:
            raise self._died()
        return line

    def _died(self) -> PaddleSlimError:
        return PaddleSlimError(f"the worker ended with status {self._end()}; its message is above")

    def _end(self) -> int:
        """Lets the process end; its status."""
        with suppress(BrokenPipeError):  # it may have ended with a line unread
            self._process.stdin.close()
        self._process.stdout.close()
        return self._process.wait()

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends the process."""
        self._end()


def paddleslim_worker(batch_size: int, widths: Sequence[float], mapped: Sequence[str]) -> Worker:
    """A worker that trains PaddleSlim's supernet of MiniLM's shape with a teacher.

    Args:
        batch_size: rows per step.
        widths: shares of heads and neurons; each is trained on every batch.
        mapped: names of the layers that are compared with the teacher's.
    """
    # -I keeps this project's packages out of the other environment.
    command = [str(environment()), "-I", "-W", "ignore", str(WORKER), "--batch-size", str(batch_size)]
    return Worker([*command, "--widths", *map(str, widths), "--mapped", *mapped])


if __name__ == "__main__":
    environment()
