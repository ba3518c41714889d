"""Processes that have their imports already: each is forked from one that has imported much and computed nothing.

Importing Paddle and PaddleNLP takes seconds, far longer than what most processes of the tests do.
"""

from __future__ import annotations

import io
import multiprocessing
import multiprocessing.process
import os
import runpy
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import IO, Any

FORKED = multiprocessing.get_context("forkserver")
FORKED.set_forkserver_preload(["paddle", "paddlenlp.transformers", "onnxruntime", "optuna", "sklearn.gaussian_process"])

# Scripts of the library that run a written model.
SCRIPTS = ("reader.py", "predict.py", "worker.py")

Popen = subprocess.Popen
STARTING = threading.Lock()


def run(target: Callable[..., None], *arguments: object) -> int | None:
    """The exit status of a process that calls a function."""
    process = FORKED.Process(target=target, args=arguments)
    process.start()
    process.join()
    return process.exitcode


def popen(command: Sequence[str], **options: Any) -> Any:
    """Stands for `subprocess.Popen`: processes that run a written model are forked, others start as ever."""
    script = next((number for number, part in enumerate(command) if Path(part).name in SCRIPTS), None)
    return Popen(command, **options) if script is None else ForkedScript(command, script, **options)


class ForkedScript:
    """A script in a forked process, as far as `subprocess.run` and the library use `subprocess.Popen`."""

    def __init__(
        self,
        command: Sequence[str],
        script: int,
        stdin: int | None = None,
        stdout: int | None = None,
        stderr: int | IO[str] | None = None,
        env: dict[str, str] | None = None,
        text: bool = False,
        encoding: str | None = None,
        errors: str | None = None,
        bufsize: int = -1,
    ) -> None:
        self.args = command
        text = text or encoding is not None
        self._empty: str | bytes = "" if text else b""
        kind = "" if text else "b"
        own: list[IO[Any] | None] = []
        its: dict[int, Connection] = {}
        for number, target in enumerate((stdin, stdout, stderr)):
            own.append(None)
            if target == subprocess.PIPE:
                ends = os.pipe()
                mine, other = ends[::-1] if number == 0 else ends
                own[number] = open(mine, ("w" if number == 0 else "r") + kind, bufsize, encoding, errors)
                its[number] = Connection(other)
            elif target is not None:
                assert isinstance(target, io.TextIOBase)
                its[number] = Connection(os.dup(target.fileno()))
        self.stdin, self.stdout, self.stderr = own
        self._process = FORKED.Process(target=_run_script, args=(list(command[script:]), its, env))
        with STARTING:
            self._process.start()
            # Whoever starts the next process would take this one's exit status from the thread that waits for it.
            multiprocessing.process._children.discard(self._process)
        for end in its.values():
            end.close()

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def __enter__(self) -> ForkedScript:
        return self

    def __exit__(self, *error: object) -> None:
        for file in (self.stdin, self.stdout, self.stderr):
            if file is not None:
                file.close()
        self.wait()

    def communicate(self, input: Any = None, timeout: float | None = None) -> tuple[Any, Any]:
        with ThreadPoolExecutor(3) as pool:
            if self.stdin is not None:
                pool.submit(self._write, input)
            out, err = pool.map(lambda file: self._empty if file is None else file.read(), (self.stdout, self.stderr))
        self.wait(timeout)
        return out, err

    def _write(self, text: Any) -> None:
        with self.stdin as stdin:
            stdin.write(text or self._empty)

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int | None:
        self._process.join(timeout)
        return self.returncode

    def kill(self) -> None:
        self._process.kill()

    terminate = kill


def _run_script(arguments: list[str], files: dict[int, Connection], environment: dict[str, str] | None) -> None:
    for number, file in files.items():
        os.dup2(file.fileno(), number)
        file.close()
    if 0 in files:
        sys.stdin = open(0)  # multiprocessing has put an empty one there
    if 1 in files:
        sys.stdout = open(1, "w", closefd=False)  # the one that is there took the first server's output for a file
    os.environ.update(environment or {})
    sys.argv = arguments
    runpy.run_path(arguments[0], run_name="__main__")
