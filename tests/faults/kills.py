"""Kills at random moments: of jobs, searches, exports, written formats and checkpoints."""

from __future__ import annotations

import json
import os
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from example_runs import recipe_file
from models import batch, bert
from ofa_slim.export.formats import write_formats
from ofa_slim.export.subnet_files import load_subnet
from ofa_slim.train.checkpoint import CheckpointManager
from ofa_slim.train.checkpoint.folders import checkpoint_folders
from ofa_slim.train.checkpoint.manifest import read_manifest, verify
from runs import Broken, bits, check_file, check_run, finished, fork, partials, run_line, same_bits, visible

LATER = {"search": ("search", "formats"), "export": ("formats",)}
BIG_STEP = 200  # saves of one checkpoint process


class Kills:
    """Kills of one seed, in a folder of their own.

    Args:
        folder: for everything that the runs write.
        count: kills of each kind.
        seed: of their moments.
    """

    def __init__(self, folder: Path, count: int, seed: int) -> None:
        self.folder = folder
        self.count = count
        self.rng = random.Random(seed)
        self.log = folder / "log.txt"
        self.recipe = folder / "base" / "recipe.yaml"
        self.expected: dict[str, str] = {}

    def prepare(self) -> str:
        """Two runs that nothing disturbs; their bits are the same."""
        (self.folder / "base").mkdir(parents=True)
        self._succeed(fork(lambda: recipe_file(self.folder / "base") and None, self.log))
        start = time.monotonic()
        for name in ("whole", "again"):
            self._line("compress", self.folder / name)
        self.seconds = (time.monotonic() - start) / 2
        self.expected = bits(self.folder / "whole")
        same_bits(bits(self.folder / "again"), self.expected)
        return f"2 runs of {self.seconds:.0f} s, {len(self.expected)} files compared, all bits the same"

    def compress(self) -> str:
        """`ofa-slim compress`, again and again in one folder until it is done, then in a new one."""
        return self._killed("compress", lambda out: None, self.seconds / 4)

    def search(self) -> str:
        """`ofa-slim search` on a trained supernet."""
        return self._killed("search", lambda out: self._before("search", out), self._duration("search"))

    def export(self) -> str:
        """`ofa-slim export` on a finished search."""
        return self._killed("export", lambda out: self._before("export", out), self._duration("export"))

    def _killed(self, command: str, prepared: Callable[[Path], None], seconds: float) -> str:
        killed = ended = left = 0
        done: dict[str, str] = {}
        out = self.folder / command
        while killed < self.count or done:
            if not done and not out.exists():
                prepared(out)
            last = killed >= self.count
            moment = None if last else self.rng.uniform(0, seconds)
            status = self._line(command, out, moment)
            if status == -9:
                killed += 1
                left += bool(partials(out))
            now = check_run(out) if out.exists() else {}
            for stage, mark in done.items():
                if now.get(stage) != mark:
                    raise Broken(f"{command}: the finished stage {stage} is lost or was made again")
            done = now
            if status == 0:
                ended += 1
                wanted = self.expected
                if command == "search":
                    wanted = {name: one for name, one in wanted.items() if not name.startswith("formats")}
                same_bits(bits(out), wanted)
                if remains := partials(out):
                    raise Broken(f"{command}: the finished run leaves {remains[0]}")
                shutil.rmtree(out)
                done = {}
            elif out.exists() and not done:
                done = {"": ""} if last else {}
        return f"{killed} kills, {left} of them amid a write, {ended} runs ended, all with the same bits"

    def formats(self) -> str:
        """`write_formats` over an earlier save, whose files are whole or those of the next."""
        target = self.folder / "formats"

        def write(classes: int) -> int:
            model = bert(classes=classes)
            ids, types = batch(32, 7)
            samples = [{"input_ids": ids.numpy(), "token_type_ids": types.numpy()}] * 2
            write_formats(model, target, samples, ["plain", "inference", "onnx"])
            return 0

        start = time.monotonic()
        self._succeed(fork(lambda: write(2), self.log))
        seconds = time.monotonic() - start
        killed = replaced = left = 0
        now = 2
        while killed < self.count:
            other = 5 - now
            status = finished(fork(lambda wanted=other: write(wanted), self.log), self.rng.uniform(0, 1.4 * seconds))
            killed += status == -9
            left += bool(partials(self.folder))
            back = target if target.exists() else self._put_back(target)
            classes = len(load_file(back / "plain" / "model.safetensors")["classifier.bias"])
            for file in visible(target):
                check_file(file)
            record = json.loads((target / "export.json").read_text("utf-8"))
            files = {f"{form}/{name}" for form, entry in record["formats"].items() for name in entry["files"]}
            missing = [name for name in sorted(files) if not (target / name).is_file()]
            if missing:
                raise Broken(f"write_formats: {missing[0]} is missing")
            if status == 0 and classes != other:
                raise Broken("write_formats ended well, but the earlier save is still there")
            replaced += classes != now
            now = classes
        self._succeed(fork(lambda: write(2), self.log))
        self._succeed(fork(lambda: load_subnet(target / "plain") and None, self.log))
        if partials(self.folder):
            raise Broken(f"write_formats leaves {partials(self.folder)[0]}")
        return f"{killed} kills, {left} of them amid a write, {replaced} saves replaced, none lost"

    def _put_back(self, target: Path) -> Path:
        """A save that was killed between its two renames comes back with the next one; here by hand."""
        (replaced,) = self.folder.glob(f".{target.name}.*.replaced")
        replaced.rename(target)
        return target

    def checkpoints(self) -> str:
        """`CheckpointManager.save`, one step after the other; what it returned from is never lost."""
        directory = self.folder / "steps"
        killed = cut = 0
        while killed < self.count:
            reader, writer = os.pipe()
            child = fork(lambda writer=writer: self._save(directory, writer), self.log)
            os.close(writer)
            killed += finished(child, self.rng.uniform(0.3, 1.5)) == -9
            with os.fdopen(reader) as stream:
                said = [int(line) for line in stream.read().split()]
            folders = checkpoint_folders(directory)
            for folder in folders.values():
                verify(folder, read_manifest(folder))
            if said and max(folders) < said[-1]:
                raise Broken(f"step {said[-1]} was saved, and {max(folders)} is the last one there")
            cut += bool(partials(directory))
        return f"{killed} kills, {cut} of them amid a save, none lost"

    @staticmethod
    def _save(directory: Path, writer: int) -> int:
        state = np.arange(50_000, dtype="float32")
        manager = CheckpointManager(directory, keep=2)
        rng = np.random.default_rng(0)

        class Part:
            value = state

            def state_dict(self) -> dict[str, np.ndarray]:
                return {"value": self.value}

            def set_state_dict(self, given: dict[str, np.ndarray]) -> None:
                self.value = given["value"]

        part = Part()
        parts = {"part": part, "rng": rng}
        step = manager.restore(parts) or 0
        if step and part.value[0] != step:
            raise Broken(f"step {step} holds the state of step {part.value[0]}")
        for number in range(step + 1, step + BIG_STEP):
            part.value = state + np.float32(number)
            manager.save(number, parts)
            os.write(writer, f"{number}\n".encode())
        return 0

    def _before(self, command: str, out: Path) -> None:
        shutil.copytree(self.folder / "whole", out, ignore=shutil.ignore_patterns("checkpoints"))
        for name in LATER[command]:
            shutil.rmtree(out / name)
        for file in out.glob("report.*"):
            file.unlink()

    def _duration(self, command: str) -> float:
        out = self.folder / f"{command}-whole"
        self._before(command, out)
        start = time.monotonic()
        self._line(command, out)
        seconds = time.monotonic() - start
        shutil.rmtree(out)
        return seconds

    def _line(self, command: str, out: Path, kill_after: float | None = None) -> int:
        status = run_line([command, str(self.recipe), "--output_dir", str(out)], self.log, kill_after)
        if status not in ((0,) if kill_after is None else (0, -9)):
            lines = self.log.read_text("utf-8", "replace").splitlines()
            raise Broken(f"{command} ended with status {status}: {' | '.join(lines[-2:])}")
        return status

    def _succeed(self, child: int) -> None:
        if status := finished(child):
            raise Broken(f"a process ended with status {status}; see {self.log}")
