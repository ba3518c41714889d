"""Written models in processes of their own: what they compute there, and how long it takes.

Each model has its own process, because thread pools that share one get in each other's way (the threads of one engine
still spin when those of the next begin), and because it is how a model is served.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import paddle

from ofa_slim.base import clock
from ofa_slim.base.clock import Latency, Rounds, Rule
from ofa_slim.base.threads import threads
from ofa_slim.errors import ExportError
from ofa_slim.export.formats import predict, reader
from ofa_slim.export.formats.opened import CARD_FILE, read_card

Name = TypeVar("Name", bound=Hashable)

# Every turn already begins with an untimed run, and opening a model with one run of each input.
SERVED = Rule(warm_up=0, runs=10, turn_seconds=0.5, least=2, seconds=6.0, limit=120.0)
LOADS = 3
AT_ONCE = 10  # processes, each of which holds an engine and a model
ANSWER_SECONDS = 300.0  # that a process may take to open its model, or for one turn


def run_in_subprocess(
    folder: Path, samples: Sequence[Mapping[str, np.ndarray]], build: str | None = None
) -> list[list[np.ndarray]]:
    """The outputs for each sample, computed from the files in a process of its own.

    Args:
        folder: of one format.
        samples: arrays by the name of the input.
        build: ``module:function`` that makes the model of a plain format which PaddleNLP cannot make.

    Raises: ExportError with the last line that the process wrote, where it failed.
    """
    with tempfile.TemporaryDirectory() as name:
        aside = Path(name)
        reader.write_samples(aside / "inputs.npz", samples)
        command = _command(aside, folder, aside / "inputs.npz", build)
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        if done.returncode:
            raise ExportError(
                f"{folder.name} cannot be read back in a fresh process: "
                f"{_last_line(done.stderr, f'exit status {done.returncode}')}"
            )
        return [list(outputs.values()) for outputs in reader.read_samples(aside / "outputs.npz")]


def time_models(
    models: Mapping[Name, Path],
    inputs: Sequence[Mapping[str, np.ndarray]],
    rule: Rule = SERVED,
    loads: int = LOADS,
    *,
    build: str | None = None,
    brief: Collection[Name] = (),
) -> dict[Name, dict[str, dict[str, Any]]]:
    """Times written models on each of some inputs.

    Each has a process of its own with as many threads as this one was given (``OMP_NUM_THREADS``). They take turns, and
    only one works at a time. Every process is started anew `loads` times, because where a model lies in memory makes it
    faster or slower for as long as it is loaded. Of many models a few are timed at a time, each time with the first
    one, and all times are given as if they had been measured together with it.

    Args:
        models: folders, by any name.
        inputs: arrays by the name of the input.
        rule: how long to measure in each load.
        loads: how often each model is loaded.
        build: ``module:function`` that makes the models of plain formats which PaddleNLP cannot make.
        brief: models that are timed on the first of the inputs alone.

    Returns: by model and by shape of the inputs, such as ``"1x64"``, the median and the 95th percentile in milliseconds
        and the number of runs.

    Raises: ExportError for a model that cannot be run or does not answer, with what its process wrote last.
    """
    times: dict[Name, dict[str, dict[str, Any]]] = {name: {} for name in models}
    if not inputs or not models:
        return times
    first, *others = sorted(models, key=lambda name: name in brief)
    groups = [[first, *others[start : start + AT_ONCE - 1]] for start in range(0, max(1, len(others)), AT_ONCE - 1)]
    shapes = ["x".join(str(size) for size in next(iter(given.values())).shape) for given in inputs]
    measured: list[dict[Name, list[Rounds]]] = []
    for group in groups:
        # An input that no other model of a group is timed on is not needed from the first one again.
        wide = [name for name in group if name not in brief]
        folders = {name: models[name] for name in group}
        timed = [group, *[wide if len(wide) > 1 or group is groups[0] else []] * (len(inputs) - 1)]
        measured.append(_rounds(folders, inputs, timed, rule, loads, build))
    for number, shape in enumerate(shapes):
        parts = [found for found in measured if found[first][number]]
        for found in parts:
            together = Latency.of([each for part in parts for each in part[first][number]])
            pace = together.median / Latency.of(found[first][number]).median
            for name, rounds in found.items():
                if rounds[number]:
                    latency = together if name == first else Latency.of(rounds[number]).scaled(pace)
                    times[name][shape] = {key: round(value, 4) for key, value in asdict(latency).items()}
    return times


def _rounds(
    models: Mapping[Name, Path],
    inputs: Sequence[Mapping[str, np.ndarray]],
    timed: Sequence[Collection[Name]],
    rule: Rule,
    loads: int,
    build: str | None,
) -> dict[Name, list[Rounds]]:
    """The rounds of each model for each input; none for an input that it is not timed on."""
    found: dict[Name, list[list[Sequence[float]]]] = {name: [[] for _ in inputs] for name in models}
    for _ in range(loads):
        with contextlib.ExitStack() as stack:
            aside = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            reader.write_samples(aside / "inputs.npz", inputs)
            served = {
                name: stack.enter_context(serving(folder, aside, number, build))
                for number, (name, folder) in enumerate(models.items())
            }
            for process in served.values():
                process.answer()  # it is open
            for number in range(len(inputs)):
                turns = {name: partial(served[name].turn, number, rule) for name in timed[number]}
                for name, rounds in clock.in_turns(turns, rule).items():
                    found[name][number] += rounds
    return {name: list(by_input) for name, by_input in found.items()}


class Served:
    """The process of one model.

    Args:
        folder: of the model.
        process: it.
        errors: the file that its standard error goes to.
    """

    def __init__(self, folder: Path, process: subprocess.Popen[bytes], errors: Any) -> None:
        self._folder = folder
        self._process = process
        self._errors = errors

    def turn(self, number: int, rule: Rule) -> list[float]:
        """The seconds of each timed run of one turn."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps([number, rule.runs, rule.turn_seconds]).encode() + b"\n")
        return self.answer()

    def answer(self) -> list[float]:
        """The next line that it answers; raises ExportError where none comes."""
        assert self._process.stdout is not None
        output, line, deadline = self._process.stdout.fileno(), b"", time.monotonic() + ANSWER_SECONDS
        while not line.endswith(b"\n"):
            if not select.select([output], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise ExportError(f"{self._folder} cannot be timed: no answer within {ANSWER_SECONDS:g} s")
            piece = os.read(output, 1 << 16)
            if not piece:
                self._errors.seek(0)
                raise ExportError(
                    f"{self._folder} cannot be timed: {_last_line(self._errors.read(), 'its process ended')}"
                )
            line += piece
        seconds: list[float] = json.loads(line)
        return seconds


@contextlib.contextmanager
def serving(folder: Path, aside: Path, number: int, build: str | None = None) -> Iterator[Served]:
    """The process of a model, until the block ends.

    Args:
        folder: of the model.
        aside: holds ``inputs.npz``, and receives the job.
        number: tells the jobs in `aside` from each other.
        build: see `time_models`.
    """
    own = aside / str(number)
    own.mkdir()
    command = _command(own, folder, aside / "inputs.npz", build, clock.__file__)
    with (
        tempfile.TemporaryFile("w+", errors="replace") as errors,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, bufsize=0
        ) as process,
    ):  # fmt: skip
        try:
            yield Served(folder, process, errors)
        finally:
            # Not terminated: Paddle handles that signal itself, and may wait for a lock for ever as it does.
            process.kill()


def _command(aside: Path, folder: Path, inputs: Path, build: str | None, clock_file: str | None = None) -> list[str]:
    """The command of a reader, whose job is written into `aside`."""
    card = read_card(folder)
    if card.get("build") not in (None, build):
        raise ExportError(
            f"{folder / CARD_FILE} says that {card['build']!r} builds the model, and code that a file names is not "
            f"run; build is {build!r}"
        )
    job = {
        "opener": card["opener"],
        "folder": str(folder.absolute()),
        "build": card.get("build"),
        "path": [path or os.getcwd() for path in sys.path] if card["opener"] == "plain" else [],
        "names": list(card["inputs"]),
        "threads": threads(),
        "device": None if card["opener"] == "onnx" else paddle.device.get_device(),
        "inputs": str(inputs),
        "outputs": str(aside / "outputs.npz"),
        "clock": clock_file,
        "predict": predict.__file__,
    }
    (aside / "job.json").write_text(json.dumps(job), encoding="utf-8")
    return [sys.executable, "-I", "-W", "ignore", reader.__file__, str(aside / "job.json")]


def _last_line(text: str, otherwise: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else otherwise
