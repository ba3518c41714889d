"""The storage of a search, and the lock of the processes that share it."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage, InMemoryStorage, RDBStorage
from sqlalchemy.engine import make_url
from sqlalchemy.exc import IntegrityError, ProgrammingError

from ofa_slim.base.foreign import check_contents
from ofa_slim.errors import SearchError

DATABASE = "search.db"

_TRIES, _WAIT = 20, 0.5  # seconds

Lock = Callable[[], AbstractContextManager[None]]
"""Makes a context manager that only one process at a time can be in."""


def open_storage(storage: str | BaseStorage | None, directory: Path | None) -> tuple[BaseStorage, Lock]:
    """A storage of Optuna or its URL, or a SQLite file in the directory, or the memory.

    Returns: the storage, and the lock of the processes that share it. A database server locks rows itself; two
        processes on one SQLite file (Optuna 4.9) can take the same waiting trial, so these lock a file beside it.

    Raises: SearchError for a storage that cannot be opened.
    """
    if isinstance(storage, BaseStorage):
        return storage, nullcontext
    if storage is None and directory is None:
        return InMemoryStorage(), nullcontext
    if storage is None and directory is not None and directory.is_dir():
        check_contents(directory, SearchError)
    url = storage if storage is not None else f"sqlite:///{directory / DATABASE}"  # type: ignore[operator]
    try:
        address = make_url(url)
        file = address.database if address.get_backend_name() == "sqlite" else None
        options = {} if file is None else {"connect_args": {"timeout": 120}}
        lock = nullcontext if file is None else _file_lock(Path(f"{file}.lock"))
        with lock():  # the first process makes the tables
            return _opened(url, options), lock
    except Exception as error:  # SQLAlchemy's and the drivers' own, for a URL or a file that cannot be opened
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise SearchError(f"storage {url!r} cannot be opened: {said}") from error


def _opened(url: str, options: dict[str, Any]) -> RDBStorage:
    """Opens a storage again where another process was making the same tables in it."""
    for _ in range(_TRIES):
        with suppress(IntegrityError, ProgrammingError):
            return RDBStorage(url, engine_kwargs=options)
        time.sleep(_WAIT)
    return RDBStorage(url, engine_kwargs=options)


def _file_lock(file: Path) -> Lock:
    @contextmanager
    def lock() -> Iterator[None]:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)  # which releases the lock, as the end of the process does

    return lock


@contextmanager
def quiet_optuna() -> Iterator[None]:
    """Inside the block Optuna does not log single trials."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)
