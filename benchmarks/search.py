"""Searched sub-networks against uniform widths on SST-2.

Two supernets of one fine-tuned MiniLM (rows and checkpoint: `sst2.py`), equal steps: one trained on uniform widths, one
by the sandwich rule over sizes of each layer. Searches on the second score on the dev rows and are judged on rows 8,001
to 12,000, which neither training nor search has seen. The baseline is each uniform width on the better of the two
supernets.

A searched sub-network may take as long as the uniform one (predicted by one latency table, batch 1 x length 64). The
score that is searched for is the mean probability of the right label: it orders sub-networks with less luck than the
accuracy does.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import nn

from sst2 import Supernet, add_options, missing, prepare, trained_supernet  # isort: skip
from ofa_slim import OFA
from ofa_slim.measure import LatencyTable
from ofa_slim.search import SearchConfig, SearchResult, stratified
from ofa_slim.train.batches import LABELS, Batches, Examples, inputs_of
from ofa_slim.train.strategies import Sandwich, Uniform

WIDTHS = (1.0, 0.75, 0.5, 0.25)
FINE = tuple(count / 12 for count in range(3, 13))
SHAPES = [[1, 64], [1, 64]]
KINDS = (
    Supernet("uniform", WIDTHS, (1.0,), lambda space: Uniform(space, WIDTHS)),
    Supernet("sandwich", FINE, (1.0,), lambda space: Sandwich(space, 2)),
)
METRIC = "probability"


@paddle.no_grad()
def right_labels(model: nn.Layer, examples: Examples) -> np.ndarray:
    """The probability that a model gives the right label of each row, float64 [rows], in a fixed order."""
    found = []
    for batch in Batches(examples, 64):
        chances = F.softmax(model(**inputs_of(batch)), axis=-1).numpy()
        found.append(chances[np.arange(len(chances)), batch[LABELS].numpy()])
    return np.concatenate(found).astype(np.float64)


def scorer(examples: Examples) -> Callable[[Any], dict[str, float]]:
    def score(ofa: Any) -> dict[str, float]:
        chances = right_labels(ofa.model, examples)
        return {METRIC: float(chances.mean()), "accuracy": float((chances > 0.5).mean())}

    return score


def judged(ofa: OFA, config: Mapping[str, int], examples: Examples) -> np.ndarray:
    """Which rows a sub-network labels rightly, float64 [rows]."""
    with ofa.subnet(config):
        return (right_labels(ofa.model, examples) > 0.5).astype(np.float64)


def interval(differences: np.ndarray) -> tuple[float, float]:
    """Mean of paired differences, and half of its 95 % confidence interval, in points."""
    error = differences.std(ddof=1) / np.sqrt(len(differences))
    return 100 * float(differences.mean()), 196 * float(error)


def compare(
    supernets: Mapping[str, OFA],
    results: Sequence[SearchResult],
    table: LatencyTable,
    teacher: nn.Layer,
    judge: Examples,
) -> list[dict[str, Any]]:
    """At the latency of each uniform width: the searched sub-networks against the better uniform one, on the judge."""
    rows = []
    original = (right_labels(teacher, judge) > 0.5).astype(np.float64)
    space = supernets["sandwich"].search_space
    for width in WIDTHS:
        budget = table.predict(space.uniform(width))
        uniform = {name: judged(ofa, ofa.search_space.uniform(width), judge) for name, ofa in supernets.items()}
        better = max(uniform, key=lambda name: uniform[name].mean())
        found = [result.best_within({"latency_ms": budget}) for result in results]
        searched = [judged(supernets["sandwich"], point.config, judge) for point in found]
        mean, half = interval(np.mean(searched, axis=0) - uniform[better])
        rows.append(
            {
                "width": width,
                "budget_ms": round(budget, 3),
                "used_ms": [round(point.costs["latency_ms"], 3) for point in found],
                "original": 100 * original.mean(),
                **{f"uniform, {name} supernet": 100 * value.mean() for name, value in uniform.items()},
                "searched": [100 * value.mean() for value in searched],
                "difference": mean,
                "half_interval": half,
                "configs": [dict(point.config) for point in found],
            }
        )
        print(json.dumps({key: value for key, value in rows[-1].items() if key != "configs"}), flush=True)
    return rows


def show(rows: Sequence[Mapping[str, Any]]) -> None:
    names = [name for name in rows[0] if name.startswith("uniform")]
    print("| at the latency of width | original | " + " | ".join(names) + " | searched | difference to the better |")
    print("| --- |" + " ---: |" * (len(names) + 3))
    for row in rows:
        uniform = " | ".join(f"{row[name]:.2f}" for name in names)
        print(
            f"| {row['width']:g} ({row['budget_ms']:.2f} ms) | {row['original']:.2f} | {uniform} | "
            f"{np.mean(row['searched']):.2f} | {row['difference']:+.2f} ± {row['half_interval']:.2f} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    add_options(parser)
    parser.add_argument("--epochs", type=int, default=4, help="of supernet training")
    parser.add_argument("--candidates", type=int, default=200)
    parser.add_argument("--screen_rows", type=int, default=436, help="of the dev rows, for screening")
    options = parser.parse_args()
    if reason := missing(options):
        print(f"search: {reason}")
        return
    teacher, train, sets = prepare(options)
    supernets = {kind.name: trained_supernet(kind, options, teacher, train, options.epochs, 1) for kind in KINDS}
    ofa, dev = supernets["sandwich"], sets["dev"]
    folder = options.output_dir / f"search-{options.epochs}-epochs"
    folder.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    table = LatencyTable.build(ofa, input_shapes=SHAPES)
    table_seconds = time.perf_counter() - start
    print(f"search: table of {len(table.times)} kinds of blocks in {table_seconds:.0f} s", flush=True)
    results, seconds = [], []
    for seed in options.seeds:
        target = folder / f"seed-{seed}"
        shutil.rmtree(target, ignore_errors=True)
        start = time.perf_counter()
        config = SearchConfig(
            candidates=options.candidates, screen=scorer(dev.take(stratified(dev.labels, options.screen_rows))),
            survivors=40, metric=METRIC, seed=seed, latency=table, input_shapes=SHAPES, directory=target,
            progress=False,
        )  # fmt: skip
        results.append(ofa.search(scorer(dev), None, config))
        seconds.append(time.perf_counter() - start)
        correlation = results[-1].rank_correlation
        print(f"search: seed {seed}: {seconds[-1]:.0f} s, rank correlation {correlation:.2f}", flush=True)
    rows = compare(supernets, results, table, teacher, sets["held-out"])
    show(rows)
    output = {"benchmark": "search", "table_seconds": round(table_seconds, 1)}
    print(json.dumps({**output, "search_seconds": [round(value, 1) for value in seconds], "rows": rows}))


if __name__ == "__main__":
    main()
