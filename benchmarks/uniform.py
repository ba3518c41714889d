"""Sizes chosen for every part against the same width in every block that stays: MiniLM on SST-2 in 8 bits.

Both keep within the same share of the original's latency (the table of `harder.py`: one row of 64 tokens). Of the same
width, every depth is tried with the largest width that fits. All are in the same order, refitted on the same rows,
trained alone for as long (see `harder.py`), and scored in 8 bits as read back. Differences are paired: over the same
rows, with an interval of 95 % from their standard error.
"""

from __future__ import annotations

import argparse
import copy
import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import nn

from closed_form import as_supernet, inputs
from harder import FORMAT, Written, table_of
from ofa_slim import Finish
from ofa_slim.closed_form import Calibration, allocate, measure_curves, reorder_by_obs, repair, statistics
from ofa_slim.closed_form.calibration import without_labels
from ofa_slim.export.cut import export_subnet
from ofa_slim.job.distilling import finished
from ofa_slim.measure import LatencyTable
from ofa_slim.supernet.axis import WIDTH
from ofa_slim.supernet.handle import Supernet
from ofa_slim.supernet.subnet_config import SubnetConfig
from ofa_slim.train.batches import Batches, Examples
from sst2 import BATCH, add_options, missing, prepare

Cost = Callable[[Mapping[str, int]], float]


def same_width(whole: Supernet, blocks: int, time_of: Cost, most: float) -> SubnetConfig | None:
    """The largest width within a time where so many blocks stay, evenly spread; None where a tenth is too slow."""
    parts = [axis for axis in whole.space.axes if axis.task == WIDTH]
    count = len(parts) // 2
    stay = {round(place) for place in np.linspace(0, count - 1, blocks)}
    for percent in range(100, 9, -1):
        sizes = {
            axis.name: max(1, round(percent / 100 * axis.size)) if number // 2 in stay else 0
            for number, axis in enumerate(parts)
        }
        if time_of(sizes) <= most:
            return whole.space.complete(sizes)
    return None


def difference(first: np.ndarray, second: np.ndarray) -> dict[str, float]:
    """How many points more are right in the first, with the half of its interval of 95 %."""
    paired = first.astype(float) - second
    return {"points": 100 * paired.mean(), "interval": 196 * paired.std(ddof=1) / len(paired) ** 0.5}


def one_seed(
    model: nn.Layer, train: Examples, table: LatencyTable, written: Written, options: argparse.Namespace, seed: int
) -> list[dict[str, Any]]:
    """Adds the networks of one seed; returns their sizes and by how much the chosen one is better."""
    calibration = Calibration(model, inputs(train, options.rows, np.random.default_rng(seed)))
    moments = statistics(model, calibration)
    removals = moments.removals(model)
    ordered = copy.deepcopy(model)
    reorder_by_obs(ordered, removals)
    whole = as_supernet(ordered)
    curves = measure_curves(model, calibration.part(256), moments, removals, omit=True)

    def time_of(sizes: Mapping[str, int]) -> float:
        return table.predict(whole.space.complete(sizes))

    largest = time_of(whole.space.largest())
    results = []
    for share in options.shares:
        chosen = f"{share:g}-chosen-seed-{seed}"
        configs = {chosen: whole.space.complete(allocate(curves, time_of, share * largest))}
        for blocks in range(2, 7):
            config = same_width(whole, blocks, time_of, share * largest)
            if config is not None:
                configs[f"{share:g}-{blocks}-blocks-seed-{seed}"] = config
        for name, config in configs.items():
            paddle.seed(seed)
            small = export_subnet(whole, config)
            repair(small, model, calibration)
            loader = Batches(train, BATCH, np.random.default_rng(seed))
            finish = Finish(options.epochs, options.finish_rate, seed=seed)
            finished(small, model, loader, without_labels, finish, None)
            written.add(name, small)
            result: dict[str, Any] = {"model": name, "share": time_of(config) / largest, "config": dict(config)}
            if name != chosen:
                right = written.right
                result["chosen is better by"] = difference(right[chosen]["held-out"], right[name]["held-out"])
            print(json.dumps(result), flush=True)
            results.append(result)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.set_defaults(seeds=[1])
    parser.add_argument("--shares", type=float, nargs="+", default=[0.35, 0.25])
    parser.add_argument("--epochs", type=int, default=3, help="of training alone")
    parser.add_argument("--finish_rate", type=float, default=2e-4, help="highest learning rate of these")
    parser.add_argument("--rows", type=int, default=2048, help="of the calibration")
    options = parser.parse_args()
    if reason := missing(options):
        print(f"uniform: {reason}")
        return
    model, train, sets = prepare(options)
    table = table_of(model, options.output_dir / f"latency-{FORMAT}.json")
    with tempfile.TemporaryDirectory() as name:
        written = Written(Path(name), sets)
        written.add("original", model)
        results = [result for seed in options.seeds for result in one_seed(model, train, table, written, options, seed)]
        written.timed(5000)
    print(json.dumps({"benchmark": "uniform", "results": results, "written": written.rows}))


if __name__ == "__main__":
    main()
