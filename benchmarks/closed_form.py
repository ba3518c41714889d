"""Smaller without training: OBS orders, least-squares repair and allocated sizes, on SST-2 (see `sst2.py`).

Calibration rows are drawn from the training rows, without labels; accuracy is that of the dev rows and of rows 8,001 to
12,000. Columns: the fine-tuned model sliced in order of |parameter * gradient| (which needs labels), the same repaired,
sliced in OBS order and repaired, and with sizes allocated at the same multiply-accumulates. With --shares also sizes
that are the same in every layer against allocated ones, without and with whole sub-layers left out, within the same
share of the original's latency, by the table of times and as measured.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from paddle import nn

from sst2 import add_options, missing, prepare, reordered, scores  # isort: skip
from ofa_slim.closed_form import (
    Calibration,
    Curve,
    allocate,
    curve_sizes,
    measure_curves,
    reorder_by_obs,
    repair,
    statistics,
)
from ofa_slim.export.cut import export_subnet
from ofa_slim.measure import LatencyTable, measure_latency
from ofa_slim.measure.cost import CostModel
from ofa_slim.supernet import Convert, supernet
from ofa_slim.supernet.axis import WIDTH
from ofa_slim.supernet.discover import full_space
from ofa_slim.supernet.handle import Supernet
from ofa_slim.supernet.subnet_config import SubnetConfig
from ofa_slim.train.batches import LABELS, Batches, Examples

ROWS_AT_ONCE = 128
SHAPES = [[1, 64], [1, 64]]
TIMED = {"input_shapes": [[32, 64], [32, 64]], "input_dtypes": ["int64", "int64"]}


class Clock:
    """Seconds, and seconds of all cores, by name of what took them."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {}

    def __call__(self, name: str) -> Clock:
        self._name = name
        return self

    def __enter__(self) -> None:
        self._start = time.perf_counter(), time.process_time()

    def __exit__(self, *_: object) -> None:
        wall, cores = time.perf_counter() - self._start[0], time.process_time() - self._start[1]
        self.seconds[self._name] = [round(wall, 1), round(cores, 1)]


def inputs(examples: Examples, rows: int, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Batches of rows without their labels."""
    chosen = examples.take(rng.permutation(len(examples))[:rows])
    batches = Batches(chosen, ROWS_AT_ONCE, rng)
    return [{name: value for name, value in batch.items() if name != LABELS} for batch in batches]


def as_supernet(model: nn.Layer) -> Supernet:
    """A model whose every head and neuron can be cut; its weights are those of the model."""
    converted = Convert(supernet(expand_ratio=[1.0])).convert(copy.deepcopy(model))
    return Supernet(converted, full_space(converted))


def uniform(whole: Supernet, width: float) -> SubnetConfig:
    """The share of heads and neurons nearest to a width, the same in every layer."""
    parts = [axis for axis in whole.space.axes if axis.task == WIDTH]
    return whole.space.complete({axis.name: round(width * axis.size) for axis in parts})


def one_seed(
    model: nn.Layer,
    train: Examples,
    sets: Mapping[str, Examples],
    options: argparse.Namespace,
    seed: int,
    table: LatencyTable | None,
) -> dict[str, Any]:
    """Accuracy of every way and width, the sizes that were allocated, and what took how long."""
    clock, found, allocated = Clock(), {}, {}
    calibration = Calibration(model, inputs(train, options.rows, np.random.default_rng(seed)))
    with clock("statistics"):
        moments = statistics(model, calibration)
    with clock("OBS"):
        removals = moments.removals(model)
    ordered = copy.deepcopy(model)
    reorder_by_obs(ordered, removals)
    by_obs = as_supernet(ordered)

    def repaired(name: str, config: SubnetConfig) -> None:
        small = export_subnet(by_obs, config)
        with clock(f"repair, {name}"):
            repair(small, model, calibration)
        found[name] = scores(small, sets)
        print(seed, name, found[name], clock.seconds, flush=True)

    for width in options.widths:
        repaired(f"uniform {width}", uniform(by_obs, width))
    with clock("curves"):
        omitting = measure_curves(model, calibration.part(options.curve_rows), moments, removals, omit=True)
    curves = [Curve(curve.axis, curve.sizes[1:], curve.losses[1:]) for curve in omitting]
    costs = CostModel.of(by_obs, SHAPES)

    def flops(sizes: Mapping[str, int]) -> float:
        return costs(by_obs.space.complete(sizes)).flops

    for width in options.widths:
        with clock(f"allocation {width}"):
            config = by_obs.space.complete(allocate(curves, flops, flops(uniform(by_obs, width))))
        allocated[width] = dict(config)
        repaired(f"allocated {width}", config)
    at_latency = {}
    if table is not None:

        def time_of(sizes: Mapping[str, int]) -> float:
            return table.predict(by_obs.space.complete(sizes))

        whole = time_of(by_obs.space.largest())
        for share in options.shares:
            pair = {
                "uniform": slowest_uniform(by_obs, time_of, share * whole),
                "allocated": by_obs.space.complete(allocate(curves, time_of, share * whole)),
                "omitting": by_obs.space.complete(allocate(omitting, time_of, share * whole)),
            }
            small = {name: export_subnet(by_obs, config) for name, config in pair.items()}
            times = measure_latency({"original": model, **small}, **TIMED)
            for one in small.values():
                repair(one, model, calibration)
            at_latency[share] = {
                name: {
                    "scores": scores(one, sets),
                    "predicted": time_of(pair[name]) / whole,
                    "measured": times[name].median / times["original"].median,
                    "config": dict(pair[name]),
                }
                for name, one in small.items()
            }
            print(seed, share, at_latency[share], flush=True)
    return {"seed": seed, "scores": found, "allocated": allocated, "at latency": at_latency, "seconds": clock.seconds}


def latency_table(model: nn.Layer) -> LatencyTable:
    """The times of the blocks at the sizes that allocation chooses from."""
    whole = as_supernet(model)
    sizes = {axis.name: curve_sizes(axis, omit=True) for axis in whole.space.axes if axis.task == WIDTH}
    return LatencyTable.build(whole, **TIMED, choices=sizes)


def slowest_uniform(whole: Supernet, time_of: Callable[[Mapping[str, int]], float], most: float) -> SubnetConfig:
    """The slowest within a time of those that keep the same share of heads and neurons in every layer."""
    shares = [uniform(whole, step / 100) for step in range(5, 101)]
    return max((config for config in shares if time_of(config) <= most), key=time_of)


def by_importance(
    model: nn.Layer, train: Examples, sets: Mapping[str, Examples], options: argparse.Namespace
) -> dict[str, dict[str, float]]:
    """Accuracy in the order of |parameter * gradient|, which needs labels: sliced, and repaired."""
    found = {}
    rng = np.random.default_rng(options.seeds[0])
    calibration = Calibration(model, inputs(train, options.rows, np.random.default_rng(options.seeds[0])))
    whole = as_supernet(reordered(model, train, options.importance_batches, rng))
    for width in options.widths:
        small = export_subnet(whole, uniform(whole, width))
        found[f"importance, sliced {width}"] = scores(small, sets)
        repair(small, model, calibration)
        found[f"importance + repair {width}"] = scores(small, sets)
        print("importance", width, found, flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    add_options(parser)
    parser.add_argument("--widths", type=float, nargs="*", default=[0.75, 0.5, 0.35, 0.25])
    parser.add_argument("--rows", type=int, default=2048, help="of the calibration")
    parser.add_argument("--curve_rows", type=int, default=256, help="of them, for the curves of the allocation")
    parser.add_argument("--shares", type=float, nargs="*", default=[0.75, 0.5, 0.35, 0.25], help="of the latency")
    options = parser.parse_args()
    if reason := missing(options):
        print(f"closed_form: {reason}")
        return
    model, train, sets = prepare(options)
    original = scores(model, sets)
    print("original", original, flush=True)
    table = latency_table(model) if options.shares else None
    runs = [one_seed(model, train, sets, options, seed, table) for seed in options.seeds]
    order = by_importance(model, train, sets, options) if options.importance_batches else {}
    print(json.dumps({"benchmark": "closed_form", "original": original, "runs": runs, "importance": order}))


if __name__ == "__main__":
    main()
