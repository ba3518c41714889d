"""GLUE's smaller tasks at half of the latency: CoLA, MRPC and STS-B, both sides in 8 bits.

MiniLM is fine-tuned on each task's training file for three epochs. Sizes of every part are chosen within a share of the
original's latency (one row of 64 tokens, the table of `harder.py`), matrices refitted; then the network trains alone by
the fine-tuned model: on the rows of the training file, and, for as many steps, on these and --copies of each with a
fifth of the tokens changed. No label is read. The dev file scores what was written, as read back.
"""

from __future__ import annotations

import argparse
import copy
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import nn

from closed_form import as_supernet, inputs
from closed_form_glue import add_tasks, fine_tuned
from harder import FORMAT, table_of
from ofa_slim import Finish, TeacherCache
from ofa_slim.closed_form import (
    Calibration,
    allocate,
    measure_curves,
    reorder_by_obs,
    repair,
    statistics,
    without_labels,
)
from ofa_slim.export.cut import export_subnet
from ofa_slim.export.formats import Opened, time_models, write_formats
from ofa_slim.job.distilling import finished
from ofa_slim.job.run import random_tokens
from ofa_slim.tasks.task_kind import TaskKind
from ofa_slim.train.augment import augmented
from ofa_slim.train.batches import LABELS, Batches, Examples, arrays
from sst2 import BATCH, add_options


def chosen(model: nn.Layer, train: Examples, options: argparse.Namespace, seed: int) -> tuple[nn.Layer, dict[str, int]]:
    """The network of the seed's calibration rows, refitted, and its sizes."""
    calibration = Calibration(model, inputs(train, options.rows, np.random.default_rng(seed)))
    moments = statistics(model, calibration)
    removals = moments.removals(model)
    ordered = copy.deepcopy(model)
    reorder_by_obs(ordered, removals)
    whole = as_supernet(ordered)
    table = table_of(model, options.output_dir / f"latency-{FORMAT}.json")
    curves = measure_curves(model, calibration.part(options.curve_rows), moments, removals, omit=True)
    most = options.share * table.predict(whole.space.largest())
    config = whole.space.complete(allocate(curves, lambda sizes: table.predict(whole.space.complete(sizes)), most))
    small = export_subnet(whole, config)
    repair(small, model, calibration)
    return small, dict(config)


class Judged:
    """What is written of one task, and its scores.

    Args:
        task: its name.
        kind: its metrics.
        dev: the rows that score.
        folder: receives the models.

    Attributes:
        models: the folder of each, by name.
        results: one for each, in per cent.
    """

    def __init__(self, task: str, kind: TaskKind, dev: Examples, folder: Path) -> None:
        self.task, self.kind, self.folder = task, kind, folder
        self.batches = list(Batches(dev, 64))
        self.models: dict[str, Path] = {}
        self.results: list[dict[str, Any]] = []

    def add(self, name: str, model: nn.Layer, **about: Any) -> None:
        """Writes a model in 8 bits and scores it as read back."""
        write_formats(model, self.folder / name, [arrays(batch) for batch in self.batches[::6]], [FORMAT])
        self.models[name] = self.folder / name / FORMAT
        run = Opened(self.models[name])
        answers = np.concatenate([run(arrays(batch))[0] for batch in self.batches])
        found = self.kind.metrics(answers, np.concatenate([batch[LABELS].numpy() for batch in self.batches]))
        scores = {metric: round(100 * value, 2) for metric, value in found.items()}
        self.results.append({"task": self.task, "model": name, **scores, **about})
        print(json.dumps(self.results[-1]), flush=True)

    def timed(self) -> None:
        """Times all of them in turns on one row of 64 tokens."""
        times = time_models(self.models, [random_tokens(5000, 64, np.random.default_rng(0), 1)])
        for result in self.results:
            (latency,) = times[result["model"]].values()
            result["latency_ms"] = latency["median"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.set_defaults(seeds=[1])
    add_tasks(parser)
    parser.add_argument("--share", type=float, default=0.5, help="of the original's latency")
    parser.add_argument("--rows", type=int, default=2048, help="of the calibration")
    parser.add_argument("--curve_rows", type=int, default=128, help="of them, for the curves of the allocation")
    parser.add_argument("--copies", type=int, default=3)
    parser.add_argument("--no_copies", action="store_true", help="train on the rows alone")
    parser.add_argument("--finish_rate", type=float, default=2e-4, help="highest learning rate of the training")
    options = parser.parse_args()
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as aside:
        for task, kind, model, tokenizer, train, dev in fine_tuned(options):
            judged = Judged(task, kind, dev, Path(aside) / task)
            judged.add("original", model)
            for seed in options.seeds:
                small, config = chosen(model, train, options, seed)
                judged.add(f"refitted-{seed}", small, config=config)
                special, mask = tokenizer.all_special_ids, tokenizer.mask_token_id
                ways = [("trained", train, options.copies + 1)]
                if not options.no_copies:
                    more = augmented(train, options.copies, np.random.default_rng(seed), special=special, mask=mask)
                    ways.append(("trained-with-copies", more, 1))
                for name, rows, epochs in ways:
                    paddle.seed(seed)
                    loader = Batches(rows, BATCH, np.random.default_rng(seed))
                    answers = TeacherCache(options.output_dir / "answers", len(train), max_bytes=2**33)
                    cache = answers if epochs > 1 else None
                    finish = Finish(epochs, options.finish_rate, seed=seed, cache_teacher=cache)
                    network = finished(copy.deepcopy(small), model, loader, without_labels, finish, None)
                    judged.add(f"{name}-{seed}", network)
            judged.timed()
            results += judged.results
            print(json.dumps(judged.results), flush=True)
    print(json.dumps({"benchmark": "small_tasks", "results": results}))


if __name__ == "__main__":
    main()
