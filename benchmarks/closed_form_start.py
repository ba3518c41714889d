"""Closed forms around training, on SST-2 (see `sst2.py`): the order to train a supernet in, and repair afterwards.

A supernet whose heads and neurons are in OBS order against one in order of |parameter * gradient|, each trained from
the checkpoint for some numbers of steps, every width on each batch; then each width of the longest trained is
exported with `export(repair=)`.
"""

from __future__ import annotations

import argparse
import copy
import json

import numpy as np
import paddle
from paddle import nn

from closed_form import inputs
from ofa_slim.closed_form import Calibration, reorder_by_obs, statistics
from ofa_slim.ofa import dynabert_config
from ofa_slim.train.batches import Examples
from ofa_slim.train.builders import Teaching, strategy_of
from ofa_slim.train.fitting import train_supernet
from ofa_slim.train.loop import Schedule
from sst2 import BATCH, TASK, add_options, missing, prepare, reordered, scores, supernet_of, width_scores


def ordered(model: nn.Layer, train: Examples, options: argparse.Namespace, order: str, seed: int) -> nn.Layer:
    """A copy of the checkpoint with its heads and neurons in an order."""
    rng = np.random.default_rng(seed)
    if order == "importance":
        return reordered(model, train, options.importance_batches, rng)
    found = copy.deepcopy(model)
    reorder_by_obs(found, statistics(model, Calibration(model, inputs(train, options.rows, rng))).removals(model))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    add_options(parser)
    parser.set_defaults(seeds=[1])
    parser.add_argument("--widths", type=float, nargs="+", default=[1.0, 0.75, 0.5, 0.25])
    parser.add_argument("--steps", type=int, nargs="+", default=[0, 50, 100, 250])
    parser.add_argument("--rows", type=int, default=2048, help="of the calibration")
    options = parser.parse_args()
    if reason := missing(options):
        print(f"closed_form_start: {reason}")
        return
    model, train, sets = prepare(options)
    found = []
    for seed in options.seeds:
        for order in ("importance", "obs"):
            start = ordered(model, train, options, order, seed)
            for steps in options.steps:
                paddle.seed(seed)
                ofa = supernet_of(
                    copy.deepcopy(start), options.widths, teaching=Teaching(model, lambda_distill=options.lambda_rep)
                )
                if steps:
                    rng = np.random.default_rng(seed)
                    rows = train.take(rng.permutation(len(train))[: steps * BATCH])
                    strategy = strategy_of("uniform", ofa.search_space, options.widths, [1.0], 0)
                    schedule = Schedule(1, BATCH, options.learning_rate)
                    train_supernet(ofa, rows, TASK.kind, schedule, rng, strategy, options.lambda_logit)
                ofa.eval()
                record = {
                    "seed": seed,
                    "order": order,
                    "steps": steps,
                    "scores": width_scores(ofa, options.widths, sets),
                }
                if steps == max(options.steps):
                    rows = inputs(train, options.rows, np.random.default_rng(seed))
                    record["repaired"] = {
                        width: scores(ofa.export(config=dynabert_config(ofa, width), repair=rows), sets)
                        for width in options.widths
                    }
                found.append(record)
                print(json.dumps(record), flush=True)
    print(json.dumps({"benchmark": "closed_form_start", "original": scores(model, sets), "runs": found}))


if __name__ == "__main__":
    main()
