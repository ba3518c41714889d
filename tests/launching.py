"""Two processes that run a script of the tests."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

TESTS = Path(__file__).parent
SECONDS = 300  # to start and train; a deadlock takes this long to be noticed


def launched(script: Path, folder: Path) -> list[dict[str, Any]]:
    """What each of two processes has written to ``rank<number>.npz`` in the folder that they are given."""
    launcher = [sys.executable, "-m", "paddle.distributed.launch", "--nproc_per_node", "2", "--backend", "gloo"]
    command = [*launcher, "--log_dir", str(folder / "log"), str(script), str(folder)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS.parent), os.environ.get("PYTHONPATH", "")])}
    with (folder / "launcher.log").open("w") as log:
        # In a session of its own, so that the processes which the launcher starts can be ended with it.
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, env=environment, start_new_session=True)
        try:
            code = process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    logs = "\n".join(path.read_text()[-3000:] for path in sorted(folder.rglob("*log*")) if path.is_file())
    assert code == 0, f"the launcher ended with {code}\n{logs}"
    return [dict(np.load(folder / f"rank{rank}.npz")) for rank in range(2)]
