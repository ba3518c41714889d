"""How long written models take, in turns."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ofa_slim.errors import ExportError
from ofa_slim.export.formats import worker
from ofa_slim.export.formats.opened import Inputs
from ofa_slim.export.formats.reader import write_samples

Name = TypeVar("Name", bound=Hashable)

ROUNDS = 5
TURN_SECONDS = 0.5  # of one model in one round
QUIET_SECONDS = 0.25  # between two turns: so long OpenMP's threads spin after their work


def time_models(
    models: Mapping[Name, Path], inputs: Sequence[Inputs], rounds: int = ROUNDS
) -> dict[Name, dict[str, dict[str, Any]]]:
    """Times written models on each of some inputs.

    Each has a process of its own with as many threads as this one was given (``OMP_NUM_THREADS``). They take turns in a
    new random order each round, so that what else the machine does meets all of them; only one works at a time.

    Args:
        models: folders, by any name.
        inputs: arrays by the name of the input.
        rounds: turns of each model, of up to ten runs that count and one that does not.

    Returns: by model and by shape of the inputs, such as ``"1x64"``, the median and the 95th percentile in milliseconds
        and the number of runs.

    Raises: ExportError for a model that cannot be run, with what its process said last.
    """
    found: dict[Name, dict[str, dict[str, Any]]] = {name: {} for name in models}
    if not inputs:
        return found
    rng = np.random.default_rng(0)
    names = list(models)
    with contextlib.ExitStack() as stack:
        file = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "inputs.npz"
        write_samples(file, inputs)
        workers = {name: stack.enter_context(_served(folder, file)) for name, folder in models.items()}
        for served in workers.values():
            served.ask()
        for number, given in enumerate(inputs):
            seconds: dict[Name, list[float]] = {name: [] for name in names}
            for _ in range(rounds):
                for place in rng.permutation(len(names)):
                    time.sleep(QUIET_SECONDS)
                    seconds[names[place]] += workers[names[place]].ask([number, TURN_SECONDS])
            shape = "x".join(str(size) for size in next(iter(given.values())).shape)
            for name, taken in seconds.items():
                found[name][shape] = {
                    "median": round(1000 * float(np.median(taken)), 4),
                    "p95": round(1000 * float(np.percentile(taken, 95)), 4),
                    "runs": len(taken),
                }
    return found


class _Worker:
    """The process of one model."""

    def __init__(self, folder: Path, process: subprocess.Popen[str], errors: Any) -> None:
        self._folder = folder
        self._process = process
        self._errors = errors

    def ask(self, question: list[float] | None = None) -> list[float]:
        """The answer to a question, or to none: the process is ready."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            if question is not None:
                self._process.stdin.write(json.dumps(question) + "\n")
                self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            self._errors.seek(0)
            said = [line for line in self._errors.read().splitlines() if line.strip()]
            raise ExportError(f"{self._folder} cannot be timed: {said[-1] if said else 'its process ended'}")
        found: list[float] = json.loads(answer)
        return found


@contextlib.contextmanager
def _served(folder: Path, file: Path) -> Iterator[_Worker]:
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    command = [sys.executable, "-W", "ignore", worker.__file__, str(folder), str(file)]
    with (
        tempfile.TemporaryFile("w+", errors="replace") as errors,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True,
            env={**os.environ, "PYTHONPATH": path},
        ) as process,
    ):  # fmt: skip
        served = _Worker(folder, process, errors)
        try:
            yield served
        finally:
            if process.stdin is not None:
                process.stdin.close()
            process.kill()  # Paddle handles SIGTERM with code that can deadlock in a process that is about to end
