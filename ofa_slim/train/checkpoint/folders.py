"""The checkpoint folders in a directory: each complete or not there, whenever the process dies."""

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


def checkpoint_folders(directory: Path) -> dict[int, Path]:
    """The checkpoint folders of a directory by step, the oldest first; empty if the directory does not exist.

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


def remove_interrupted(directory: Path) -> None:
    """Removes what killed saves left.

    Raises: CheckpointError where the file system refuses.
    """
    with explained(f"cannot remove what an interrupted save left in {directory}"):
        remove_leftovers(directory, _NAME.pattern)
        for name in sorted(os.listdir(directory)):
            if _REMOVED.fullmatch(name):
                shutil.rmtree(directory / name)


def make_directory(directory: Path) -> None:
    """Makes the directory with its parents, so that it survives a power failure.

    Raises: CheckpointError where the file system refuses, or a file is in the way.
    """
    with explained(f"cannot make the directory {directory}"):
        missing = [folder for folder in (directory, *directory.parents) if not folder.exists()]
        directory.mkdir(parents=True, exist_ok=True)
        for folder in missing:
            sync(folder.parent)


@contextmanager
def new_checkpoint(directory: Path, step: int) -> Iterator[Path]:
    """A temporary folder to fill, flushed to disk; it becomes the checkpoint of that step if the block ends well.

    Raises: CheckpointError with the system's message; an earlier checkpoint of that step is then still in place.
    """
    target = directory / f"step-{step:08d}"
    with explained(f"cannot write checkpoint {target}"), atomic_folder(target, durable=True) as aside:
        yield aside


def remove_checkpoint(folder: Path) -> None:
    """Removes a checkpoint; it is renamed first, so that a half-removed folder does not count as one.

    Raises: CheckpointError with the system's message.
    """
    with explained(f"cannot remove {folder}"):
        hidden = folder.with_name(f".{folder.name}.removed")
        os.rename(folder, hidden)
        shutil.rmtree(hidden)


@contextmanager
def explained(problem: str) -> Iterator[None]:
    """Turns errors of the file system into a `CheckpointError` that says what could not be done, and why."""
    try:
        yield
    except OSError as error:
        file = f" ({error.filename})" if error.filename is not None else ""
        raise CheckpointError(f"{problem}: {error.strerror or error}{file}") from error
    except SafetensorError as error:
        raise CheckpointError(f"{problem}: {error}") from error
