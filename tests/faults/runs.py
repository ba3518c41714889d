"""Command lines in forked processes, killed at some moment, and the state of what they leave."""

from __future__ import annotations

import hashlib
import json
import multiprocessing.forkserver
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime  # noqa: F401  imported before the forks
import optuna  # noqa: F401
import paddlenlp.transformers  # noqa: F401
import safetensors.numpy

import forked
from ofa_slim.cli import main as command_line
from ofa_slim.export.formats import Opened, processes
from ofa_slim.job import job, tools, writing_stages  # noqa: F401  imported before the forks
from ofa_slim.job.plan import STAGES
from ofa_slim.job.stage_folders import MARK
from ofa_slim.train.checkpoint.manifest import read_manifest, verify

EXACT = ("model.safetensors", "importance.safetensors", "vocab.txt")


class Broken(AssertionError):
    """Something that must hold after a fault does not."""


def fork(function: Callable[[], int | None], log: Path | None = None) -> int:
    """The id of a process that calls a function, with the imports of this one."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        if log is not None:
            handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            os.dup2(handle, 1)
            os.dup2(handle, 2)
        # The server of the process that this one was forked from also serves this one.
        multiprocessing.forkserver._forkserver.ensure_running = lambda: None  # type: ignore[method-assign]
        subprocess.Popen = forked.popen  # type: ignore[misc,assignment]
        time_briefly()
        status = function() or 0
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def finished(child: int, kill_after: float | None = None) -> int:
    """The exit status of a process, -9 where it was killed first."""
    deadline = None if kill_after is None else time.monotonic() + kill_after
    while True:
        process, status = os.waitpid(child, os.WNOHANG)
        if process:
            return os.waitstatus_to_exitcode(status)
        if deadline is not None and time.monotonic() >= deadline:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
            deadline = None
        time.sleep(0.002)


def run_line(arguments: list[str], log: Path, kill_after: float | None = None) -> int:
    """The exit status of an `ofa-slim` command line."""
    return finished(fork(lambda: command_line(arguments), log), kill_after)


def start_server() -> None:
    """Starts the server that processes of written models are forked from."""
    forked.run(print)


def check_run(out: Path) -> dict[str, str]:
    """Checks that whatever has its final name is whole; returns the id of each finished stage.

    Raises: Broken that names the file.
    """
    done = {}
    for name in STAGES:
        if (out / name).exists():
            if not (out / name / MARK).is_file():
                raise Broken(f"{out / name} has its final name and no {MARK}")
            done[name] = json.loads((out / name / MARK).read_text("utf-8"))["id"]
    for file in visible(out):
        check_file(file)
    for folder in out.glob("checkpoints/**/step-*"):
        if not hidden(folder, out):
            verify(folder, read_manifest(folder))
    return done


def check_file(file: Path) -> None:
    """Reads a file of a known kind; raises Broken where it is not whole."""
    try:
        if file.suffix == ".json":
            json.loads(file.read_text("utf-8"))
        elif file.suffix == ".safetensors":
            safetensors.numpy.load_file(file)
        elif file.suffix == ".html" and not file.read_text("utf-8").rstrip().endswith("</html>"):
            raise Broken(f"{file} ends early")
        elif file.suffix == ".png" and not file.read_bytes().endswith(b"IEND\xaeB`\x82"):
            raise Broken(f"{file} ends early")
    except (ValueError, OSError, safetensors.SafetensorError) as error:
        raise Broken(f"{file} is not whole: {error}") from error


def visible(folder: Path) -> Iterator[Path]:
    """The files that have their final name."""
    for file in sorted(folder.rglob("*")):
        if file.is_file() and not hidden(file, folder):
            yield file


def hidden(file: Path, below: Path) -> bool:
    """Whether a file, or a folder that holds it, has a temporary name."""
    return any(part.startswith(".") for part in file.relative_to(below).parts)


def bits(out: Path) -> dict[str, str]:
    """Hashes of everything in a run that is not a time, by file."""
    found = {
        str(file.relative_to(out)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in visible(out)
        if file.name in EXACT and "checkpoints" not in file.parts
    }
    for card in sorted(out.glob("formats/*/*/format.json")):
        # Not their files: Paddle numbers parameters by all that the process has built, and a resumed one builds less.
        found[str(card.parent.relative_to(out))] = computed(card.parent)
    for name in ("finetune", "evaluate", "search"):
        file = out / name / "results.json"
        if file.is_file():
            found[str(file.relative_to(out))] = file.read_text("utf-8")
    return found


def computed(folder: Path) -> str:
    """A hash of what a written model computes on fixed token ids, in a process of its own."""
    reader, writer = os.pipe()

    def write() -> None:
        ids = np.arange(1, 36).reshape(5, 7)
        outputs = Opened(folder)({"input_ids": ids, "token_type_ids": np.zeros_like(ids)})
        os.write(writer, hashlib.sha256(outputs[0].tobytes()).hexdigest().encode())

    child = fork(write, Path(os.devnull))
    os.close(writer)
    with os.fdopen(reader) as stream:
        digest = stream.read()
    if finished(child):
        raise Broken(f"{folder} cannot be opened")
    return digest


def same_bits(found: dict[str, str], expected: dict[str, str]) -> None:
    """Raises Broken that names the files which differ."""
    differ = sorted(name for name in {*found, *expected} if found.get(name) != expected.get(name))
    if differ:
        raise Broken(f"other bits than a run that was never killed: {', '.join(differ)}")


def partials(folder: Path) -> list[Path]:
    """What has a temporary name."""
    return sorted(path for path in folder.rglob(".*") if path.name.endswith((".partial", ".replaced", ".removed")))


def time_briefly() -> None:
    """No outcome depends on how fast a model is: each is timed once, for a moment."""
    brief = replace(processes.SERVED, turn_seconds=0.01, runs=1, seconds=1.0)
    writing_stages.SERVED = brief  # type: ignore[attr-defined]
    processes.time_models.__defaults__ = (brief, 1)
