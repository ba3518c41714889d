"""What one epoch of supernet training costs in accuracy at each width, on SST-2.

One MiniLM is fine-tuned; from that checkpoint one supernet is trained per seed (rows and checkpoint: `sst2.py`). The
table gives the change against the checkpoint in points, mean and standard error over the seeds.
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np
import paddle

from sst2 import BATCH, TASK, add_options, missing, prepare, reordered, scores, width_scores  # isort: skip  finds glue
from glue.loop import Around, Schedule
from glue.training import build_supernet, train_supernet
from ofa_slim.strategies import Uniform


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    add_options(parser)
    parser.add_argument("--widths", type=float, nargs="+", default=[1.0, 0.75, 0.5, 0.25])
    parser.add_argument("--epochs", type=int, default=1)
    options = parser.parse_args()
    if reason := missing(options):
        print(f"sst2_widths: {reason}")
        return
    teacher, train, sets = prepare(options)
    base = scores(teacher, sets)
    print("checkpoint", json.dumps(base), flush=True)
    changes = []
    for seed in options.seeds:
        paddle.seed(seed)
        rng = np.random.default_rng(seed)
        start = time.perf_counter()
        student = reordered(teacher, train, options.importance_batches, rng)
        scored = time.perf_counter()
        ofa = build_supernet(student, options.widths, teacher, options.lambda_rep)
        untrained = width_scores(ofa, options.widths, {"dev": sets["dev"]})
        begin = time.perf_counter()
        schedule = Schedule(options.epochs, BATCH, options.learning_rate)
        strategy = Uniform(ofa.search_space, options.widths)
        train_supernet(ofa, train, TASK, schedule, rng, strategy, options.lambda_logit, Around(seed=seed))
        seconds = time.perf_counter() - begin
        found = width_scores(ofa, options.widths, sets)
        changes.append(
            {
                "seed": seed,
                "importance_seconds": round(scored - start, 1),
                "training_seconds": round(seconds, 1),
                "untrained": {width: round(value["dev"], 2) for width, value in untrained.items()},
                "change": {
                    name: {width: round(found[width][name] - base[name], 2) for width in options.widths}
                    for name in sets
                },
            }
        )
        print(json.dumps(changes[-1]), flush=True)
    print(table(changes, options.widths, list(sets)))


def table(changes: list[dict[str, object]], widths: list[float], sets: list[str]) -> str:
    """Mean and standard error over the seeds, as Markdown."""
    lines = ["| set | " + " | ".join(map(str, widths)) + " | training |", "| --- " * (len(widths) + 2) + "|"]
    seconds = np.mean([change["training_seconds"] for change in changes])
    for name in sets:
        cells = []
        for width in widths:
            values = np.array([change["change"][name][width] for change in changes])
            error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else float("nan")
            cells.append(f"{values.mean():+.2f} ± {error:.2f}")
        lines.append(f"| {name} | " + " | ".join(cells) + f" | {seconds:.0f} s |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
