"""Predicted against measured latency of sub-networks that took no part in making the table.

MiniLM's shape with random weights, one row of 64 tokens, heads 1 to 12 and 12 widths in each of six layers, 4 to 6
layers. Each random sub-network is exported and timed in turns with the whole model, both loaded anew each time; what is
compared is the ratio of the two times. Two loads whose ratios differ by over 5 % are unsteady: two more follow.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from minilm import minilm
from ofa_slim import OFA, Convert, RunConfig, SubnetConfig, supernet
from ofa_slim.measure import LatencyTable, measure_latency

WANTED = {"median": 0.05, "worst": 0.15, "rank": 0.97, "seconds": 180}
SHAPES = [[1, 64], [1, 64]]
UNSTEADY = 0.05


def measured_ratio(ofa: OFA, config: SubnetConfig) -> tuple[float, int]:
    """The time of an exported sub-network in units of the whole model's, and how often both were loaded."""
    models = {"whole": ofa.export(config=ofa.search_space.largest()), "small": ofa.export(config=config)}
    ratios: list[float] = []
    while len(ratios) < 2 or (len(ratios) < 4 and max(ratios) / min(ratios) > 1 + UNSTEADY):
        times = measure_latency(models, SHAPES)
        ratios.append(times["small"].median / times["whole"].median)
    return float(np.median(ratios)), len(ratios)


def draw(predicted: np.ndarray, measured: np.ndarray, file: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6, 4.4), layout="constrained")
    axes = figure.subplots()
    ends = [min(predicted.min(), measured.min()) - 0.02, 1.0]
    axes.plot(ends, ends, color="0.6", linewidth=1, label="equal")
    axes.fill_between(ends, [0.95 * end for end in ends], [1.05 * end for end in ends], color="0.9", label="within 5 %")
    axes.plot(measured, predicted, "o", color="#0072b2", markersize=5)
    axes.set_xlabel("measured, in units of the whole model")
    axes.set_ylabel("predicted")
    axes.legend(frameon=False, loc="upper left")
    FigureCanvasAgg(figure)
    figure.savefig(file, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--configs", type=int, default=30, help="random sub-networks (default 30)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--picture", type=Path, default=Path("runs/latency.png"))
    options = parser.parse_args()
    ratios = [count / 12 for count in range(1, 13)]
    model = Convert(supernet(expand_ratio=ratios)).convert(minilm())
    ofa = OFA(model, RunConfig(elastic_depth=[4, 5, 6]))
    start = time.perf_counter()
    table = LatencyTable.build(ofa, input_shapes=SHAPES, progress=False)
    seconds = time.perf_counter() - start
    print(f"table: {seconds:.0f} s; fixed part {table.fixed:.2f} ms, scale {table.scale:.3f}", flush=True)
    rng = np.random.default_rng(options.seed)
    configs: list[SubnetConfig] = []
    while len(configs) < options.configs:
        config = ofa.search_space.sample(rng)
        if config not in table.measured_subnets:
            configs.append(config)
    whole = table.predict(ofa.search_space.largest())
    predicted, measured, unsteady = [], [], 0
    for config in configs:
        ratio, loads = measured_ratio(ofa, config)
        predicted.append(table.predict(config) / whole)
        measured.append(ratio)
        unsteady += loads > 2
        print(f"predicted {predicted[-1]:.3f}, measured {ratio:.3f}, {loads} loads", flush=True)
    errors = np.abs(np.array(predicted) / np.array(measured) - 1)
    found = {
        "median": float(np.median(errors)),
        "worst": float(errors.max()),
        "rank": float(spearmanr(predicted, measured).statistic),
        "seconds": seconds,
    }
    print("| | found | wanted |\n| --- | ---: | ---: |")
    print(f"| median error | {100 * found['median']:.1f} % | at most {100 * WANTED['median']:.0f} % |")
    print(f"| worst error | {100 * found['worst']:.1f} % | at most {100 * WANTED['worst']:.0f} % |")
    print(f"| rank correlation | {found['rank']:.3f} | at least {WANTED['rank']} |")
    print(f"| building the table | {seconds:.0f} s | at most {WANTED['seconds']} s |")
    options.picture.parent.mkdir(parents=True, exist_ok=True)
    draw(np.array(predicted), np.array(measured), options.picture)
    print(json.dumps({"benchmark": "latency_table", "configs": len(configs), "unsteady": unsteady, **found}))


if __name__ == "__main__":
    main()
