"""Files and folders that are complete or do not exist: written under a temporary name, then renamed."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PARTIAL, REPLACED = "partial", "replaced"
_LEFT = re.compile(rf"\.(?P<name>.+)\.(?P<process>\d+)\.(?P<state>{PARTIAL}|{REPLACED})")


@contextmanager
def atomic_file(file: Path) -> Iterator[Path]:
    """The path of a temporary file to write; it replaces `file` if the block ends without an error.

    The temporary name contains the process id, so several processes may write the same file; the last one stays.
    """
    aside = file.with_name(f".{file.name}.{os.getpid()}.{PARTIAL}")
    try:
        yield aside
        aside.replace(file)
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def atomic_folder(target: Path, durable: bool = False) -> Iterator[Path]:
    """A temporary folder to fill; it replaces `target` if the block ends without an error.

    An earlier `target` stays in place until then, and is put back if anything fails. What killed processes left of
    earlier attempts is removed first.

    Args:
        target: the folder; its parents are made.
        durable: whether the contents must be on the disk before the folder gets its name, so that a power failure
            cannot leave an incomplete one either.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(target.parent, re.escape(target.name))
    aside, replaced = (target.with_name(f".{target.name}.{os.getpid()}.{state}") for state in (PARTIAL, REPLACED))
    try:
        aside.mkdir()
        yield aside
        if durable:
            for path in [*sorted(aside.rglob("*")), aside]:
                sync(path)
        if target.exists():
            os.rename(target, replaced)
        os.rename(aside, target)
        if durable:
            sync(target.parent)
        shutil.rmtree(replaced, ignore_errors=True)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        with suppress(OSError):
            if replaced.exists() and not target.exists():
                os.rename(replaced, target)
        raise


def remove_leftovers(directory: Path, names: str) -> None:
    """Removes what killed processes left beside folders, or puts an earlier folder back that has no successor.

    Args:
        directory: contains the folders.
        names: a regular expression for their names.
    """
    for left in sorted(os.listdir(directory)):
        match = _LEFT.fullmatch(left)
        if match is None or not re.fullmatch(names, match["name"]) or _runs(int(match["process"])):
            continue
        target = directory / match["name"]
        if match["state"] == REPLACED and not target.exists():
            os.rename(directory / left, target)
        elif (directory / left).is_dir():
            shutil.rmtree(directory / left)


def replaced_folders(directory: Path, names: list[str]) -> dict[str, Path]:
    """The folders whose replacement was killed between its two renames, by the name that they had."""
    matches = ((name, _LEFT.fullmatch(name)) for name in names)
    return {match["name"]: directory / name for name, match in matches if match and match["state"] == REPLACED}


def sync(path: Path) -> None:
    """Waits until a file's or folder's contents are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _runs(process: int) -> bool:
    """Whether another process with that id is alive."""
    if process == os.getpid():
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
