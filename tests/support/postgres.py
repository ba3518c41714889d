"""A PostgreSQL server of its own, on a socket in a temporary folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROGRAMS = max(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name), default=None)
NOBODY = "postgres"  # the server does not run as root; Debian's package has this user


@contextmanager
def server() -> Iterator[str]:
    """Starts a server and stops it; its folder's path is short, as that of a socket has to be.

    Yields: SQLAlchemy's URL of an empty database.
    """
    with tempfile.TemporaryDirectory() as made:
        yield from _in_folder(Path(made))


def _in_folder(folder: Path) -> Iterator[str]:
    assert PROGRAMS is not None
    data = folder / "data"
    user = {}
    if os.getuid() == 0:
        shutil.chown(folder, NOBODY)
        user = {"user": NOBODY, "group": NOBODY, "extra_groups": []}

    def run(program: str, *arguments: str) -> None:
        environment = {**os.environ, "LC_ALL": "C"}
        command = [PROGRAMS / program, *arguments]
        subprocess.run(command, check=True, capture_output=True, cwd=folder, env=environment, **user)

    run("initdb", "--pgdata", str(data), "--username", "search", "--auth", "trust", "--no-sync")
    options = f"-c listen_addresses='' -c fsync=off -k {folder}"
    run("pg_ctl", "start", "--wait", "--pgdata", str(data), "--log", str(folder / "log"), "--options", options)
    try:
        yield f"postgresql+psycopg2://search@/postgres?host={folder}"
    finally:
        run("pg_ctl", "stop", "--wait", "--pgdata", str(data), "--mode", "immediate")
