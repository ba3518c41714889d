"""A supernet training that is killed at random moments and resumed; `main` is for a process of its own.

Each run is again a process, forked before Paddle has computed anything.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
import paddle
from paddle import nn

from launching import become_rank, free_port
from ofa_slim import OFA, Convert, DistillConfig, RunConfig, parallel, supernet
from ofa_slim.job.glue import TASKS
from ofa_slim.train.batches import Examples
from ofa_slim.train.fitting import train_supernet
from ofa_slim.train.loop import RuntimeOptions, Schedule
from ofa_slim.train.strategies import Sandwich

STEPS_PER_EPOCH, EPOCHS = 16, 4
STEPS = STEPS_PER_EPOCH * EPOCHS


class Classifier(nn.Layer):
    """A small encoder with dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(40, 16)
        self.body = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 4, 24, dropout=0.1), 2)
        self.head = nn.Linear(16, 2)

    def forward(self, input_ids: paddle.Tensor, token_type_ids: paddle.Tensor) -> paddle.Tensor:
        return self.head(self.body(self.embed(input_ids + token_type_ids)).mean(axis=1))


def examples() -> Examples:
    rng = np.random.default_rng(0)
    ids = [rng.integers(1, 40, int(length)) for length in rng.integers(3, 9, 4 * STEPS_PER_EPOCH)]
    return Examples(
        {"input_ids": ids, "token_type_ids": [np.zeros_like(row) for row in ids]}, np.zeros(len(ids), np.int64)
    )


def run(folder: Path, kill_at: int | None, delay: float) -> None:
    """Trains to the end, or until some moment after a step."""
    parallel.start()
    paddle.seed(0)
    model, teacher = Classifier(), Classifier()
    Convert(supernet(expand_ratio=[1.0, 0.5, 0.25])).convert(model)
    distilling = DistillConfig(teacher_model=teacher, mapping_layers=["body.layers.0", "body.layers.1"])
    ofa = OFA(model, RunConfig(elastic_depth=[1, 2]), distilling)

    doomed = threading.Event()

    def after_step(number: int) -> None:
        if kill_at is not None and number >= kill_at and not doomed.is_set():
            doomed.set()
            saves = folder / "checkpoints" if kill_at % 4 == 0 else None
            threading.Thread(target=kill_self, args=(delay, saves), daemon=True).start()

    options = RuntimeOptions(
        seed=3, checkpoints=folder / "checkpoints", recipe={"seed": 3}, every=2, after_step=after_step
    )
    rng = np.random.default_rng(5)
    schedule = Schedule(EPOCHS, batch_size=4, learning_rate=1e-2, accumulate=1)
    train_supernet(ofa, examples(), TASKS["sst-2"].kind, schedule, rng, Sandwich(ofa.search_space, 1), options=options)
    if parallel.is_writer():
        digest = hashlib.sha256()
        for _, value in sorted(model.state_dict().items()):
            digest.update(value.numpy().tobytes())
        digest.update(repr(rng.bit_generator.state).encode())
        (folder / "hash").write_text(digest.hexdigest(), encoding="utf-8")


def kill_self(delay: float, saves: Path | None) -> None:
    """Kills this process after a delay in seconds or, with a folder of checkpoints, once the next save is under way."""
    time.sleep(delay)
    give_up = time.monotonic() + 5
    while saves is not None and time.monotonic() < give_up:
        if saves.is_dir() and any(not name.startswith("step-") for name in os.listdir(saves)):
            break
        time.sleep(0.0002)
    os.kill(os.getpid(), signal.SIGKILL)


def fork(folder: Path, rank: int, ranks: int, port: int, kill_at: int | None, delay: float) -> int:
    """The id of a process that trains."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        if ranks > 1:
            become_rank(rank, ranks, port)
        run(folder, kill_at, delay)
        status = 0
    except BaseException as error:
        print(type(error).__name__, error, file=sys.stderr, flush=True)
    finally:
        sys.stderr.flush()
        os._exit(status)


def main(folder: Path, kills: int, ranks: int) -> None:
    """Writes how many runs were killed, how many kills cut a save short, and a hash of all weights at the end."""
    folder.mkdir()
    rng = random.Random(kills + ranks)
    moments = sorted(rng.randrange(1, STEPS - 20) for _ in range(kills))
    cut_short = killed = 0
    for kill_at in [*moments, None]:
        port = free_port()
        # Of several processes one is killed; the others then fail, as their launcher would end them.
        victim = rng.randrange(ranks)
        delay = rng.uniform(0, 0.06)
        children = [
            fork(folder, rank, ranks, port, kill_at if rank == victim else None, delay) for rank in range(ranks)
        ]
        statuses: dict[int, int] = {}
        while len(statuses) < ranks:
            child, status = os.wait()
            statuses[child] = status
            if os.WIFSIGNALED(status):
                for other in set(children) - set(statuses):
                    os.kill(other, signal.SIGKILL)
        killed += any(os.WIFSIGNALED(status) for status in statuses.values())
        if kill_at is None and any(statuses.values()):
            sys.exit(f"the last run failed: {statuses}")
        left = (
            {path.name for path in (folder / "checkpoints").iterdir()} if (folder / "checkpoints").is_dir() else set()
        )
        cut_short += any(not name.startswith("step-") for name in left)
    (folder / "outcome.json").write_text(json.dumps([killed, cut_short, (folder / "hash").read_text()]))
