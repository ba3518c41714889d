"""Accuracy after one epoch of supernet training on SST-2, and how long it takes until every width is good enough.

One MiniLM is fine-tuned; from that checkpoint one supernet is trained per seed (rows and checkpoint: `sst2.py`).

Accuracy: the change against the checkpoint at each width, in points, mean and standard error over the seeds.

Time: the clock runs while the supernet trains and stands while the dev rows are scored, every 50 steps. What counts is
the second of two scores in a row at which every width is at or above its goal; the median over the seeds.

PaddleSlim's time (with --paddleslim) is 250 steps, an epoch, of its published loop: the same rows, widths, teacher
and mapped layers, batches in random order and padded to their longest row, as its users' script has them. Its
steps are timed while our clock stands, so that both meet the same machine.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import paddle
from paddle import nn

from sst2 import BATCH, TASK, add_options, missing, prepare, reordered, scores, supernet_of, width_scores  # isort: skip
from minilm import MAPPABLE
from ofa_slim.train.batches import Examples
from ofa_slim.train.builders import Teaching
from ofa_slim.train.fitting import train_supernet
from ofa_slim.train.loop import RuntimeOptions, Schedule
from ofa_slim.train.strategies import Uniform
from paddleslim_env import Worker, paddleslim_worker

GOALS = {1.0: 0.4, 0.75: -0.9, 0.5: -3.7, 0.25: -4.5}
"""The least change at each width, in points."""

EVERY = 50
PADDLESLIM_STEPS = 250
WANTED = 1 / 6


def meets(changes: Mapping[float, float], goals: Mapping[float, float]) -> bool:
    """Whether the change at every width is at least its goal; a change that is no number is not."""
    return all(changes[width] >= goal for width, goal in goals.items())


def steady(history: Sequence[Mapping[float, float]], goals: Mapping[float, float]) -> bool:
    """Whether the last two scores in a row both meet the goals."""
    return len(history) >= 2 and all(meets(changes, goals) for changes in history[-2:])


class Stopwatch:
    """Is called after each training step: adds up training seconds, scores now and then.

    Args:
        score: gives the change at each width; its time does not count.
        every: steps between two scores.
        goals: the least change at each width.
        clock: seconds from some fixed moment.

    Attributes:
        seconds: of all steps so far.
        reached: of the steps until the second score in a row that met the goals; None before.
    """

    def __init__(
        self,
        score: Callable[[], Mapping[float, float]],
        every: int,
        goals: Mapping[float, float],
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.seconds = 0.0
        self.reached: float | None = None
        self.history: list[Mapping[float, float]] = []
        self._score = score
        self._every = every
        self._goals = goals
        self._clock = clock
        self._since = clock()

    def after_step(self, step: int) -> None:
        """Counts one step, the `step`-th."""
        self.seconds += self._clock() - self._since
        if step % self._every == 0:
            self.history.append(self._score())
            if self.reached is None and steady(self.history, self._goals):
                self.reached = self.seconds
        self._since = self._clock()


def padded_lengths(lengths: np.ndarray, batch_size: int, rng: np.random.Generator) -> list[int]:
    """The longest row of each batch of one pass in random order."""
    order = rng.permutation(len(lengths))
    return [int(lengths[order[start : start + batch_size]].max()) for start in range(0, len(order), batch_size)]


class Theirs:
    """PaddleSlim's steps over the same rows, some at a time."""

    def __init__(self, worker: Worker, train: Examples, rng: np.random.Generator) -> None:
        self._worker = worker
        self._lengths = padded_lengths(train.lengths, BATCH, rng)
        self._worker.step(self._lengths[-1])  # the first is slower
        self.seconds: list[float] = []

    def run(self, steps: int) -> None:
        for _ in range(steps):
            length = self._lengths[len(self.seconds) % len(self._lengths)]
            self.seconds.append(self._worker.step(length))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    add_options(parser)
    parser.add_argument("--epochs", type=int, default=1, help="the learning rate falls over them")
    parser.add_argument("--no_dropout", action="store_true", help="of the sub-networks")
    parser.add_argument("--paddleslim", action="store_true", help="time PaddleSlim as well")
    parser.add_argument("--paddleslim_steps", type=int, default=5, help="of each time that the clock stands")
    options = parser.parse_args()
    if options.epochs < 1 or options.paddleslim_steps < 1:
        parser.error("--epochs and --paddleslim_steps are at least 1")
    if reason := missing(options):
        print(f"time_to_accuracy: {reason}")
        return
    teacher, train, sets = prepare(options)
    base = scores(teacher, sets)
    print("checkpoint", json.dumps(base), flush=True)
    with ExitStack() as stack:
        theirs = None
        if options.paddleslim:
            worker = stack.enter_context(paddleslim_worker(BATCH, list(GOALS), MAPPABLE))
            theirs = Theirs(worker, train, np.random.default_rng(0))
        found = [train_seed(seed, options, teacher, base, train, sets, theirs) for seed in options.seeds]
    print(table([one["change"] for one in found]))
    show(found, None if theirs is None else PADDLESLIM_STEPS * statistics.mean(theirs.seconds))


def train_seed(
    seed: int,
    options: argparse.Namespace,
    teacher: nn.Layer,
    base: Mapping[str, float],
    train: Examples,
    sets: Mapping[str, Examples],
    theirs: Theirs | None,
) -> dict[str, Any]:
    """Trains one supernet; its seconds, infinitely many where it never was good enough, and its changes."""
    paddle.seed(seed)
    rng = np.random.default_rng(seed)
    widths = list(GOALS)
    start = time.perf_counter()
    student = reordered(teacher, train, options.importance_batches, rng)
    importance_seconds = time.perf_counter() - start
    ofa = supernet_of(student, widths, teaching=Teaching(teacher, lambda_distill=options.lambda_rep))

    def changes(names: Sequence[str]) -> dict[str, dict[float, float]]:
        found = width_scores(ofa, widths, {name: sets[name] for name in names})
        return {name: {width: found[width][name] - base[name] for width in widths} for name in names}

    def score() -> dict[float, float]:
        if theirs is not None:
            theirs.run(options.paddleslim_steps)
        change = changes(["dev"])["dev"]
        print(", ".join(f"{width}: {value:+.2f}" for width, value in change.items()), flush=True)
        return change

    untrained = changes(["dev"])["dev"]
    stopwatch = Stopwatch(score, EVERY, GOALS)
    runtime = RuntimeOptions(after_step=stopwatch.after_step, dropout=not options.no_dropout)
    schedule = Schedule(options.epochs, BATCH, options.learning_rate)
    strategy = Uniform(ofa.search_space, widths)
    train_supernet(ofa, train, TASK.kind, schedule, rng, strategy, options.lambda_logit, runtime)
    found = {
        "seed": seed,
        "seconds": math.inf if stopwatch.reached is None else stopwatch.reached,
        "epoch_seconds": round(stopwatch.seconds, 1),
        "importance_seconds": round(importance_seconds, 1),
        "change": {"dev, before training": untrained, **changes(list(sets))},
    }
    print(json.dumps({**found, "seconds": _number(found["seconds"])}), flush=True)
    return found


def table(changes: Sequence[Mapping[str, Mapping[float, float]]]) -> str:
    """Mean and standard error of the changes over the seeds, as Markdown."""
    widths = list(GOALS)
    lines = ["| set | " + " | ".join(map(str, widths)) + " |", "| --- " * (len(widths) + 1) + "|"]
    for name in changes[0]:
        cells = []
        for width in widths:
            values = np.array([change[name][width] for change in changes])
            error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else float("nan")
            cells.append(f"{values.mean():+.2f} ± {error:.2f}")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def show(found: Sequence[Mapping[str, Any]], paddleslim_seconds: float | None) -> None:
    """Prints the times as a table, and as one JSON line for programs.

    Args:
        found: of each training its seed and seconds.
        paddleslim_seconds: of PaddleSlim's epoch; None where it was not timed.
    """
    print("| seed | until good enough | the epoch |\n| --- | ---: | ---: |")
    for one in found:
        print(f"| {one['seed']} | {_words(one['seconds'])} | {one['epoch_seconds']:.1f} s |")
    median = statistics.median(one["seconds"] for one in found)
    result: dict[str, Any] = {"benchmark": "time_to_accuracy", "median_seconds": _number(median)}
    print(f"time_to_accuracy: median {_words(median)}")
    if paddleslim_seconds is not None:
        share = median / paddleslim_seconds
        print(f"time_to_accuracy: PaddleSlim's {PADDLESLIM_STEPS} steps: {paddleslim_seconds:.0f} s")
        print(f"time_to_accuracy: ours / PaddleSlim: {share:.3f}; wanted: at most {WANTED:.3f}")
        result |= {"paddleslim_seconds": round(paddleslim_seconds, 1), "ratio": _number(share)}
    print(json.dumps(result))


def _words(seconds: float) -> str:
    return f"{seconds:.1f} s" if math.isfinite(seconds) else "goals not reached"


def _number(value: float) -> float | None:
    """For JSON, which has no infinity."""
    return round(value, 4) if math.isfinite(value) else None


if __name__ == "__main__":
    main()
