"""Smaller without training on GLUE's smaller tasks: CoLA, MRPC and STS-B.

MiniLM is fine-tuned on each task's training file for three epochs. Calibration rows are drawn from that file, without
labels; the dev file scores. By width, in OBS order and repaired: sizes that are the same in every layer, and sizes
allocated at the same multiply-accumulates.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import paddle
from paddle import nn

from closed_form import SHAPES, as_supernet, inputs, uniform
from ofa_slim.closed_form import (
    Calibration,
    allocate,
    measure_curves,
    reorder_by_obs,
    repair,
    statistics,
)
from ofa_slim.export.cut import export_subnet
from ofa_slim.integrations.paddlenlp import load_sequence_classifier
from ofa_slim.job.glue import TASKS
from ofa_slim.job.tokenised import tokenise
from ofa_slim.measure.cost import CostModel
from ofa_slim.tasks.task_kind import TaskKind
from ofa_slim.train.batches import Batches, Examples
from ofa_slim.train.fitting import evaluate
from sst2 import add_options, checkpoint

LENGTHS = {"cola": 48, "mrpc": 96, "sts-b": 64}


def small_scores(
    model: nn.Layer, train: Examples, dev: Examples, kind: TaskKind, options: argparse.Namespace, seed: int
) -> dict[str, dict[str, float]]:
    """The metrics of every way and width, for the calibration rows of one seed."""
    calibration = Calibration(model, inputs(train, options.rows, np.random.default_rng(seed)))
    moments = statistics(model, calibration)
    removals = moments.removals(model)
    ordered = copy.deepcopy(model)
    reorder_by_obs(ordered, removals)
    whole = as_supernet(ordered)
    curves = measure_curves(model, calibration.part(options.curve_rows), moments, removals)
    costs = CostModel.of(whole, SHAPES)

    def flops(sizes: Mapping[str, int]) -> float:
        return costs(whole.space.complete(sizes)).flops

    found = {}
    for width in options.widths:
        same = uniform(whole, width)
        chosen = {"uniform": same, "allocated": whole.space.complete(allocate(curves, flops, flops(same)))}
        for name, config in chosen.items():
            small = export_subnet(whole, config)
            repair(small, model, calibration)
            found[f"{name} {width}"] = evaluate(small, Batches(dev, 64), kind)
    return found


def add_tasks(parser: argparse.ArgumentParser) -> None:
    """Which tasks."""
    parser.add_argument("--tasks", nargs="+", default=list(LENGTHS), choices=list(LENGTHS))


def fine_tuned(
    options: argparse.Namespace,
) -> Iterator[tuple[str, TaskKind, nn.Layer, Any, Examples, Examples]]:
    """For each task that is there its name, kind, fine-tuned model, tokenizer, and rows that train and that score."""
    for name in options.tasks:
        task = TASKS[name]
        try:
            rows, dev = task.read(options.data_dir)
        except FileNotFoundError as error:
            print(f"{name} left out, {error}")
            continue
        paddle.seed(0)
        model, tokenizer = load_sequence_classifier(str(options.model), task.num_classes)
        train, dev_rows = (tokenise(tokenizer, part, LENGTHS[name]) for part in (rows, dev["dev"]))
        model = checkpoint(model, train, options.output_dir / f"checkpoint-{name}", task.kind)
        yield name, task.kind, model, tokenizer, train, dev_rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    add_options(parser)
    add_tasks(parser)
    parser.add_argument("--widths", type=float, nargs="+", default=[0.75, 0.5, 0.25])
    parser.add_argument("--rows", type=int, default=2048, help="of the calibration")
    parser.add_argument("--curve_rows", type=int, default=256, help="of them, for the curves of the allocation")
    options = parser.parse_args()
    found = {}
    for name, kind, model, _, train, dev in fine_tuned(options):
        original = evaluate(model, Batches(dev, 64), kind)
        print(name, "original", original, flush=True)
        found[name] = {"original": original}
        for seed in options.seeds:
            found[name][seed] = small_scores(model, train, dev, kind, options, seed)
            print(name, seed, json.dumps(found[name][seed]), flush=True)
    print(json.dumps({"benchmark": "closed_form_glue", "tasks": found}))


if __name__ == "__main__":
    main()
