"""Checkpoint folders on disk: there in full or not at all, whenever the process dies."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from ofa_slim.base.files import atomic_folder, remove_leftovers, replaced_folders, sync
from ofa_slim.errors import CheckpointError

_NAME = re.compile(r"step-(\d{8,})")
_REMOVED = re.compile(r"\.step-\d{8,}\.removed")


def found(directory: Path) -> dict[int, Path]:
    """The checkpoint folders of a directory by step, the oldest first; none where it is not there.

    Raises: CheckpointError where the directory cannot be read.
    """
    with explained(f"cannot read {directory}"):
        names = sorted(os.listdir(directory)) if os.path.lexists(directory) else []
    folders = {int(match[1]): directory / name for name in names if (match := _NAME.fullmatch(name))}
    # Killed between the two renames that replace a checkpoint: the earlier one still counts.
    for name, folder in replaced_folders(directory, names).items():
        if match := _NAME.fullmatch(name):
            folders.setdefault(int(match[1]), folder)
    return dict(sorted(folders.items()))


def clean(directory: Path) -> None:
    """Removes what a killed save left.

    Raises: CheckpointError where the file system does not let it.
    """
    with explained(f"cannot remove what an interrupted save left in {directory}"):
        remove_leftovers(directory, _NAME.pattern)
        for name in sorted(os.listdir(directory)):
            if _REMOVED.fullmatch(name):
                shutil.rmtree(directory / name)


def make(directory: Path) -> None:
    """Makes the directory with its parents, and sees to it that it is there after a power failure.

    Raises: CheckpointError where the file system does not let it, or a file is in the way.
    """
    with explained(f"cannot make the directory {directory}"):
        missing = [folder for folder in (directory, *directory.parents) if not folder.exists()]
        directory.mkdir(parents=True, exist_ok=True)
        for folder in missing:
            sync(folder.parent)


@contextmanager
def placing(directory: Path, step: int) -> Iterator[Path]:
    """A folder to fill aside; it becomes the checkpoint of that step if the block ends well.

    Every file and folder is on the disk before the new name is. If anything fails nothing is left of it and a
    checkpoint of that step that was there before is still in place.

    Raises: CheckpointError with what the system said.
    """
    target = directory / f"step-{step:08d}"
    with explained(f"cannot write checkpoint {target}"), atomic_folder(target, durable=True) as aside:
        yield aside


def remove(folder: Path) -> None:
    """Removes a checkpoint; half removed it has no checkpoint's name any more.

    Raises: CheckpointError with what the system said.
    """
    with explained(f"cannot remove {folder}"):
        hidden = folder.with_name(f".{folder.name}.removed")
        os.rename(folder, hidden)
        shutil.rmtree(hidden)


@contextmanager
def explained(problem: str) -> Iterator[None]:
    """Turns what the file system raises into a `CheckpointError` that says what could not be done, and why."""
    try:
        yield
    except OSError as error:
        file = f" ({error.filename})" if error.filename is not None else ""
        raise CheckpointError(f"{problem}: {error.strerror or error}{file}") from error
    except SafetensorError as error:
        raise CheckpointError(f"{problem}: {error}") from error
