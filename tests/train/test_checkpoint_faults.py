"""Whatever happens to a save, the checkpoints before it are sound, and what is damaged is never loaded."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
import safetensors.paddle
from paddle import nn

from ofa_slim import CheckpointManager
from ofa_slim.errors import CheckpointError
from ofa_slim.train.checkpoint.manifest import read_manifest, verify


def run_at(value: float) -> dict[str, Any]:
    """Parts whose every weight, moment and state tells when they were saved."""
    layer = nn.Linear(2, 2)
    optimizer = paddle.optimizer.Adam(0.1, parameters=layer.parameters())
    layer.weight.grad = paddle.full([2, 2], value)
    optimizer.step()
    optimizer.clear_grad()
    layer.weight.set_value(paddle.full([2, 2], value))
    return {"model": layer, "optimizer": optimizer, "rng": np.random.Generator(np.random.MT19937(int(value)))}


def restored(directory: Path) -> tuple[int | None, float]:
    """The step and weight of what a new process finds."""
    parts = run_at(0.0)
    step = CheckpointManager(directory).restore(parts)
    return step, float(parts["model"].weight[0, 0])


def listing(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is not waited for; what is asked of it is tested by itself."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("two")
    manager = CheckpointManager(directory)
    for step in (1, 2):
        manager.save(step, run_at(float(step)), score=step)
    return directory


FILES = (
    "manifest.json",
    "model.json",
    "model.safetensors",
    "optimizer.json",
    "optimizer.safetensors",
    "paddle-gradients.json",
    "paddle-random.json",
    "rng.arrays.safetensors",
    "rng.json",
)


def test_the_files_below_are_all_there_are(two: Path) -> None:
    assert listing(two / "step-00000002") == sorted(FILES)


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


DAMAGE: dict[str, Callable[[Path], Any]] = {
    "a bit": flip,
    "the last byte's bit": lambda file: file.write_bytes(file.read_bytes()[:-1] + bytes([file.read_bytes()[-1] ^ 1])),
    "the end": lambda file: file.write_bytes(file.read_bytes()[:-1]),
    "more": lambda file: file.write_bytes(file.read_bytes() + b" "),
    "empty": lambda file: file.write_bytes(b""),
    "missing": lambda file: file.unlink(),
    "a directory": lambda file: (file.unlink(), file.mkdir()),
}


@pytest.mark.parametrize("how", DAMAGE)
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_named_and_the_checkpoint_before_is_taken(
    name: str, how: str, two: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    directory = tmp_path / "run"
    shutil.copytree(two, directory)
    DAMAGE[how](directory / "step-00000002" / name)
    with caplog.at_level(logging.WARNING):
        assert restored(directory) == (1, 1.0)
    (record,) = caplog.records
    assert str(directory / "step-00000002" / name) in record.getMessage()


def test_where_none_is_sound_each_is_named_and_nothing_is_loaded(two: Path, tmp_path: Path) -> None:
    directory = tmp_path / "run"
    shutil.copytree(two, directory)
    flip(directory / "step-00000001" / "model.safetensors")
    (directory / "step-00000002" / "manifest.json").unlink()
    parts = run_at(0.0)
    expected = (
        r"no checkpoint in .*run is sound: .*step-00000002/manifest.json: No such file or directory; "
        r".*step-00000001/model.safetensors: altered, its checksum does not match"
    )
    with pytest.raises(CheckpointError, match=expected):
        CheckpointManager(directory).restore(parts)
    assert float(parts["model"].weight.sum()) == 0


def test_the_best_that_is_damaged_gives_way_to_the_next(
    two: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("model.safetensors", "manifest.json"):
        directory = tmp_path / name
        shutil.copytree(two, directory)
        flip(directory / "step-00000002" / name)
        with caplog.at_level(logging.WARNING):
            assert CheckpointManager(directory).restore_best(run_at(0.0)) == 1
        assert caplog.records[-1].getMessage().count(str(directory / "step-00000002" / name)) == 1


def test_another_format_is_not_read(two: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ofa_slim.train.checkpoint import manifest

    directory = tmp_path / "run"
    shutil.copytree(two, directory)
    monkeypatch.setattr(manifest, "_FORMAT", 2)
    with pytest.raises(CheckpointError, match=r"manifest.json: format 1, this version reads 2"):
        CheckpointManager(directory).restore(run_at(0.0))


def test_a_run_that_fell_back_replaces_what_was_damaged(two: Path, tmp_path: Path) -> None:
    directory = tmp_path / "run"
    shutil.copytree(two, directory)
    flip(directory / "step-00000002" / "model.safetensors")
    manager = CheckpointManager(directory)
    assert manager.restore(run_at(0.0)) == 1
    manager.save(2, run_at(7.0))
    assert restored(directory) == (2, 7.0)
    assert listing(directory) == ["step-00000001", "step-00000002"]


class Killed(BaseException):
    """The process is gone: nothing after it runs."""


class Disk:
    """Counts what goes to the file system and fails at one call, or dies there, the call half done or done."""

    NAMES = ("mkdir", "open", "fsync", "rename", "unlink", "rmdir", "listdir")

    def __init__(self, monkeypatch: pytest.MonkeyPatch, at: int, kill: bool) -> None:
        self.calls, self.at, self.kill = 0, at, kill
        for name in self.NAMES:
            monkeypatch.setattr(os, name, self._counted(getattr(os, name)))
        monkeypatch.setattr(Path, "write_text", self._counted(Path.write_text, self._half_text))
        for module in (safetensors.paddle, safetensors.numpy):
            monkeypatch.setattr(module, "save_file", self._counted(module.save_file, self._half_tensors))

    def _counted(self, real: Callable[..., Any], half: Callable[..., None] | None = None) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            if self.calls == self.at and half is not None:
                half(*args)
            if self.calls == self.at and not self.kill:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "there")
            if self.calls >= self.at and self.kill:
                raise Killed
            return real(*args, **kwargs)

        return call

    def _half_text(self, file: Path, text: str, *more: Any) -> None:
        file.write_bytes(text.encode()[: len(text) // 2])

    def _half_tensors(self, tensors: Any, file: Any) -> None:
        Path(file).write_bytes(b"\x08\x00\x00")


def saves(tmp_path: Path, two: Path, step: int, kill: bool) -> Iterator[tuple[int, Path, BaseException | None]]:
    """A save of `step` behind step 2, that fails at its first, second, ... call, until it does not."""
    number = 0
    parts = run_at(9.0)
    while True:
        number += 1
        directory = tmp_path / str(number)
        shutil.copytree(two, directory)
        manager = CheckpointManager(directory, keep=1)
        manager._at = 2
        with pytest.MonkeyPatch.context() as patch:
            disk = Disk(patch, number, kill)
            try:
                manager.save(step, parts)
                failed = None
            except (CheckpointError, Killed) as error:
                failed = error
        yield number, directory, failed
        if disk.calls < number:
            assert failed is None
            assert number > 30
            return


@pytest.mark.parametrize("step", [3, 2])
def test_a_save_that_is_killed_anywhere_leaves_a_checkpoint_to_go_on_from(step: int, two: Path, tmp_path: Path) -> None:
    ends = set()
    for _, directory, _ in saves(tmp_path, two, step, kill=True):
        for folder in directory.glob("step-*"):
            verify(folder, read_manifest(folder))  # whatever has a checkpoint's name is whole
        end = restored(directory)
        assert end in ((2, 2.0), (step, 9.0))
        ends.add(end)
        # The next save finds what is left, and cleans up.
        manager = CheckpointManager(directory, keep=1)
        manager.restore(run_at(0.0))
        manager.save(4, run_at(4.0), score=5)
        assert listing(directory) == ["step-00000004"]
        assert restored(directory) == (4, 4.0)
    assert ends == {(2, 2.0), (step, 9.0)}


@pytest.mark.parametrize("step", [3, 2])
def test_a_save_that_fails_anywhere_says_so_and_leaves_nothing_behind(step: int, two: Path, tmp_path: Path) -> None:
    failures = 0
    for _, directory, failed in saves(tmp_path, two, step, kill=False):
        assert not isinstance(failed, Killed)
        assert restored(directory) in ((2, 2.0), (step, 9.0))
        if failed is not None:
            failures += 1
            assert "No space left on device" in str(failed)
            assert str(directory) in str(failed)
            left = [name for name in listing(directory) if name.startswith(".")]
            assert [name for name in left if not name.endswith(".replaced")] == []
    assert failures > 20


def test_everything_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory, events = tmp_path / "new" / "run", []
    monkeypatch.setattr(os, "fsync", lambda handle: events.append(os.readlink(f"/proc/self/fd/{handle}")))
    rename = os.rename
    monkeypatch.setattr(os, "rename", lambda old, new: (events.append("rename"), rename(old, new)))
    CheckpointManager(directory).save(1, run_at(1.0))
    aside = directory / f".step-00000001.{os.getpid()}.partial"
    filled = [str(aside / name) for name in sorted(FILES)]
    made = [str(tmp_path / "new"), str(tmp_path)]
    assert events == [*made, *filled, str(aside), "rename", str(directory)]


def test_an_old_checkpoint_that_cannot_be_removed_does_not_stop_the_run(
    two: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    directory = tmp_path / "run"
    shutil.copytree(two, directory)

    def busy(path: Path, ignore_errors: bool = False) -> None:
        if not ignore_errors:
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(path))

    manager = CheckpointManager(directory, keep=1)
    manager.restore(run_at(0.0))
    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING):
        patch.setattr(shutil, "rmtree", busy)
        manager.save(3, run_at(3.0), score=9)
    assert "cannot remove" in caplog.text
    assert "Device or resource busy" in caplog.text
    assert restored(directory) == (3, 3.0)
    manager.save(4, run_at(4.0), score=10)
    assert listing(directory) == ["step-00000004"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own of 200 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"mounting a small file system is not allowed here: {mounted.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)  # a mapped file may still be open


def test_a_full_disk_is_an_error_and_the_checkpoint_before_stays(small_disk: Path) -> None:
    directory = small_disk / "run"
    manager = CheckpointManager(directory)
    manager.save(1, run_at(1.0))
    before = listing(directory)
    large = {**run_at(2.0), "more": [paddle.zeros([100_000])]}
    with pytest.raises(CheckpointError, match=r"cannot write checkpoint .*step-00000002: .*No space left on device"):
        manager.save(2, large)
    assert listing(directory) == before
    with (small_disk / "fill").open("wb", buffering=0) as stream, suppress(OSError):
        while stream.write(bytes(4096)):
            pass
    with pytest.raises(CheckpointError, match="No space left on device"):
        manager.save(2, run_at(2.0))
    assert listing(directory) == before
    assert restored(directory) == (1, 1.0)
    (small_disk / "fill").unlink()
    manager.save(2, run_at(2.0))
    assert restored(directory) == (2, 2.0)


def test_a_read_only_disk_is_an_error_but_can_be_restored_from(small_disk: Path) -> None:
    directory = small_disk / "run"
    manager = CheckpointManager(directory)
    manager.save(1, run_at(1.0))
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(
        CheckpointError, match=r"cannot write checkpoint .*step-00000002: Read-only file system \(.*run/"
    ):
        manager.save(2, run_at(2.0))
    with pytest.raises(CheckpointError, match=r"cannot make the directory .*other: Read-only file system"):
        CheckpointManager(small_disk / "other").save(1, run_at(1.0))
    assert restored(directory) == (1, 1.0)


def test_a_directory_without_permission_is_an_error(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere; a read-only disk is tested besides")
    manager = CheckpointManager(tmp_path / "run")
    manager.save(1, run_at(1.0))
    (tmp_path / "run").chmod(0o500)
    try:
        with pytest.raises(CheckpointError, match="Permission denied"):
            manager.save(2, run_at(2.0))
        assert restored(tmp_path / "run") == (1, 1.0)
    finally:
        (tmp_path / "run").chmod(0o700)


def test_a_file_in_the_way_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    for directory in (tmp_path / "run", tmp_path / "run" / "inner"):
        manager = CheckpointManager(directory)
        with pytest.raises(CheckpointError, match=r"cannot (read|make the directory) .*run.*: Not a directory"):
            manager.save(1, run_at(1.0))
    with pytest.raises(CheckpointError, match="Not a directory"):
        CheckpointManager(tmp_path / "run").restore(run_at(0.0))
    assert (tmp_path / "run").read_text() == "a file"
