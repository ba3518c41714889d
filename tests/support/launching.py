"""Two processes that train together, forked from one that has imported Paddle; its launcher starts new ones."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import numpy as np
import paddle

from forked import FORKED

SECONDS = 300  # to start and train; a deadlock takes this long to be noticed


def launched(main: Callable[[Path], None], folder: Path) -> list[dict[str, Any]]:
    """What each of two processes has written to ``rank<number>.npz`` in the folder that `main` gets."""
    port = free_port()
    ranks = [FORKED.Process(target=_run, args=(main, folder, rank, port)) for rank in range(2)]
    for process in ranks:
        process.start()
    try:
        # One that fails leaves the other waiting.
        deadline = time.monotonic() + SECONDS
        while any(process.is_alive() for process in ranks) and not any(process.exitcode for process in ranks):
            if not wait([process.sentinel for process in ranks if process.is_alive()], deadline - time.monotonic()):
                break
    finally:
        for process in ranks:
            process.kill()
            process.join()
    logs = "\n".join(path.read_text()[-3000:] for path in sorted(folder.glob("log-*")))
    codes = [process.exitcode for process in ranks]
    assert codes == [0, 0], f"the processes ended with {codes}\n{logs}"
    return [dict(np.load(folder / f"rank{rank}.npz")) for rank in range(2)]


def _run(main: Callable[[Path], None], folder: Path, rank: int, port: int) -> None:
    with (folder / f"log-{rank}").open("w") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    become_rank(rank, 2, port)
    main(folder)


def become_rank(rank: int, ranks: int, port: int) -> None:
    """Tells Paddle that this process is one of several, as its launcher does."""
    ends = [f"127.0.0.1:{port + 1 + number}" for number in range(ranks)]
    os.environ |= {
        "PADDLE_MASTER": f"127.0.0.1:{port}",
        "PADDLE_TRAINER_ENDPOINTS": ",".join(ends),
        "PADDLE_CURRENT_ENDPOINT": ends[rank],
        "PADDLE_TRAINER_ID": str(rank),
        "PADDLE_TRAINERS_NUM": str(ranks),
        "PADDLE_RANK_IN_NODE": str(rank),
        "PADDLE_DISTRI_BACKEND": "gloo",
    }
    # Paddle reads them once, and has done so when PaddleNLP was imported.
    paddle.distributed.parallel._global_parallel_env = None


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
