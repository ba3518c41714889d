"""Three and four times as fast in the same engine: MiniLM on SST-2, both sides in 8 bits (see `sst2.py`).

For each share of the original's latency in ONNX Runtime with 8 bits (one row of 64 tokens) sizes of every attention and
feed-forward part chosen without a supernet, matrices refitted, then trained alone on rows 1 to 8,000 with the original
as teacher. All models are written as onnx-int8, scored as read back, and timed in turns, each in a process of its own.
With --vocabulary the tokens that no training text has are dropped from copies of the first seed's models too.
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

import ofa_slim
from closed_form import SHAPES, as_supernet
from ofa_slim import Finish, TeacherCache, prune_vocabulary
from ofa_slim.closed_form import curve_sizes
from ofa_slim.closed_form.calibration import without_labels
from ofa_slim.export.formats import Opened, time_models, write_formats
from ofa_slim.job.distilling import finished
from ofa_slim.job.run import random_tokens
from ofa_slim.job.tokenised import tokenise
from ofa_slim.measure import LatencyTable
from ofa_slim.supernet.axis import WIDTH
from ofa_slim.train.batches import LABELS, Batches, Examples, arrays
from sst2 import BATCH, MAX_LENGTH, add_options, load_sequence_classifier, missing, prepare, read_rows, scores

FORMAT = "onnx-int8"


def table_of(model: nn.Layer, file: Path) -> LatencyTable:
    """The times of the blocks in 8 bits, measured once for all seeds."""
    whole = as_supernet(model)
    sizes = {axis.name: curve_sizes(axis, omit=True) for axis in whole.space.axes if axis.task == WIDTH}
    if not file.is_file():
        LatencyTable.build(whole, input_shapes=SHAPES, input_dtypes="int64", engine=FORMAT, choices=sizes).save(file)
    return LatencyTable.load(file)


def right(examples: Examples, run: Opened) -> np.ndarray:
    """[rows], bool: which rows a written model classifies rightly."""
    found = [run(arrays(batch))[0].argmax(-1) == batch[LABELS].numpy() for batch in Batches(examples, 64)]
    return np.concatenate(found)


class Written:
    """Models in 8 bits, each scored as read back.

    Args:
        folder: receives them.
        sets: what scores.

    Attributes:
        rows: by model, per cent that are right by set, size and times.
        right: by model and set, which rows are right.
    """

    def __init__(self, folder: Path, sets: dict[str, Examples]) -> None:
        self.folder, self.sets = folder, sets
        self.rows: dict[str, dict[str, Any]] = {}
        self.right: dict[str, dict[str, np.ndarray]] = {}

    def add(self, name: str, model: nn.Layer, sets: dict[str, Examples] | None = None) -> None:
        """Writes and scores a model; `sets` where its tokens are others."""
        sets = sets or self.sets
        some = sets["dev"].take(np.arange(0, len(sets["dev"]), 6))
        samples = [arrays(batch) for batch in Batches(some, 16)]
        record = write_formats(model, self.folder / name, samples, [FORMAT])
        opened = Opened(self.folder / name / FORMAT)
        self.right[name] = {key: right(examples, opened) for key, examples in sets.items()}
        self.rows[name] = {
            **{key: 100 * float(rows.mean()) for key, rows in self.right[name].items()},
            "megabytes": max(file["bytes"] for file in record["formats"][FORMAT]["files"].values()) / 1e6,
        }
        print(name, self.rows[name], flush=True)

    def timed(self, vocabulary: int) -> None:
        """Times all of them in turns."""
        inputs = [random_tokens(vocabulary, 64, np.random.default_rng(0), rows) for rows in (1, 32)]
        times = time_models({(name, FORMAT): self.folder / name / FORMAT for name in self.rows}, inputs)
        for name, row in self.rows.items():
            row["latency_ms"] = {shape: time["median"] for shape, time in times[name, FORMAT].items()}


def add_training_options(parser: argparse.ArgumentParser) -> None:
    """How a network is refitted and trains alone."""
    parser.add_argument("--epochs", type=int, default=3, help="of training alone")
    parser.add_argument("--finish_rate", type=float, default=2e-4, help="highest learning rate of these")
    parser.add_argument("--rows", type=int, default=2048, help="of the calibration")


def finish_of(options: argparse.Namespace, seed: int, rows: int) -> Finish:
    """How a network trains alone on so many rows; the original answers each of them once, for all networks."""
    answers = TeacherCache(options.output_dir / "answers", rows)
    return Finish(options.epochs, options.finish_rate, seed=seed, cache_teacher=answers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.32, 0.24])
    add_training_options(parser)
    parser.add_argument("--vocabulary", action="store_true")
    options = parser.parse_args()
    if reason := missing(options):
        print(f"harder: {reason}")
        return
    model, train, sets = prepare(options)
    table = table_of(model, options.output_dir / f"latency-{FORMAT}.json")
    with tempfile.TemporaryDirectory() as name:
        written = Written(Path(name), sets)
        written.add("original", model)
        steps = []
        for seed in options.seeds:
            for share in options.shares:
                paddle.seed(seed)
                loader = Batches(train, BATCH, np.random.default_rng(seed))
                small = ofa_slim.compress(
                    model, loader, budget={"latency_ratio": share}, rows=options.rows, curve_rows=256,
                    input_shapes=SHAPES, input_dtypes="int64", latency=table, omit=True,
                )  # fmt: skip
                step = {"seed": seed, "share": share, "config": dict(small.report.config),
                        "costs": dict(small.report.costs), "untrained": scores(small.model, sets)}  # fmt: skip
                trained = copy.deepcopy(small.model)
                finish = finish_of(options, seed, len(train))
                finished(trained, model, loader, without_labels, finish, None)
                step["trained"] = scores(trained, sets)
                steps.append(step)
                print(json.dumps(step), flush=True)
                written.add(f"{share:g}-seed-{seed}", trained)
                if options.vocabulary and seed == options.seeds[0]:
                    with_fewer_tokens(f"{share:g}-fewer-tokens", trained, written, options)
        if options.vocabulary:
            with_fewer_tokens("original-fewer-tokens", model, written, options)
        written.timed(5000)
    print(json.dumps({"benchmark": "harder", "steps": steps, "written": written.rows}))


def with_fewer_tokens(name: str, model: nn.Layer, written: Written, options: argparse.Namespace) -> None:
    """Adds a model without the tokens that no training text has; texts that score are not among these."""
    _, tokenizer = load_sequence_classifier(str(options.model), 2)
    train, others, judged = read_rows(options.data_dir)
    pruned = prune_vocabulary(model, tokenizer, [*train.first, *others.first], ideographs=False)
    rows = {part: tokenise(pruned.tokenizer, of, MAX_LENGTH) for part, of in judged.items()}
    written.add(name, pruned.model, rows)


if __name__ == "__main__":
    main()
