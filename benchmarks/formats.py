"""Original, uniform widths and a searched sub-network in every format on SST-2: accuracy, size, latency.

Rows, fine-tuned MiniLM and supernet are those of `search.py`, which has to have run; the searched sub-network is the
best of its first search within `--share` of the original's predicted latency. It was searched for on the dev rows, so
the accuracy on rows 8,001 to 12,000, which nothing has seen, stands beside. All models take turns, each in a process of
its own, on the threads of ``OMP_NUM_THREADS``.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ofa_slim import SubnetConfig, dynabert_config
from ofa_slim.export.formats import Opened, time_models, write_formats
from ofa_slim.job.run import random_tokens
from ofa_slim.train.batches import LABELS, Batches, Examples, arrays
from search import KINDS
from sst2 import MAX_LENGTH, TASK, add_options, missing, prepare, trained_supernet

FORMATS = {"plain": "dygraph", "inference": "Paddle Inference", "onnx": "ONNX", "onnx-int8": "ONNX int8"}
LENGTH = 64


def accuracy(examples: Examples) -> Callable[[Any], float]:
    batches = list(Batches(examples, 64))
    labels = np.concatenate([batch[LABELS].numpy() for batch in batches])

    def score(run: Any) -> float:
        logits = np.concatenate([run(arrays(batch))[0] for batch in batches])
        return TASK.score(logits, labels)["accuracy"]

    return score


def searched(file: Path, share: float) -> SubnetConfig:
    """The best finally scored sub-network within a share of the original's latency."""
    points = json.loads(file.read_text(encoding="utf-8"))["points"]
    inside = [point for point in points if point["final"] and point["costs"]["latency_ratio"] <= share]
    best = max(inside, key=lambda point: point["score"])
    print(
        f"searched: {best['costs']['latency_ratio']:.3f} of the latency predicted, {dict(best['config'])}", flush=True
    )
    return SubnetConfig(best["config"])


def show(rows: list[Mapping[str, Any]]) -> None:
    shapes = " | ".join(f"{shape}, ms | speed-up | format alone" for shape in ("1 x 64", "32 x 64"))
    print(f"| model | format | dev | held out | MB | {shapes} |")
    print("| --- | --- |" + " ---: |" * 9)
    first = rows[0]["latency"]
    originals = {row["format"]: row["latency"] for row in rows if row["model"] == rows[0]["model"]}
    for row in rows:
        own, same = row["latency"], originals[row["format"]]
        times = " | ".join(f"{own[at]:.2f} | {same[at] / own[at]:.2f} | {first[at] / same[at]:.2f}" for at in first)
        print(
            f"| {row['model']} | {FORMATS[row['format']]} | {100 * row['dev']:.2f} | {100 * row['held-out']:.2f} | "
            f"{row['megabytes']:.1f} | {times} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--epochs", type=int, default=4, help="of supernet training")
    parser.add_argument("--share", type=float, default=0.65, help="of the original's latency for the searched one")
    options = parser.parse_args()
    why = missing(options)
    if why:
        print(f"formats: {why}")
        return
    original, train, sets = prepare(options)
    seed = options.seeds[0]
    found = options.output_dir / f"search-{options.epochs}-epochs" / f"seed-{seed}" / "report.json"
    if not found.is_file():
        raise SystemExit(f"{found} is not there: run search.py first")
    ofa = trained_supernet(KINDS[1], options, original, train, options.epochs, seed)
    config = searched(found, options.share)
    models = {
        "original": original,
        **{f"width {width:g}": ofa.export(config=dynabert_config(ofa, width)) for width in (0.75, 0.5)},
        "searched": ofa.export(config=config),
    }
    dev = sets["dev"]
    samples = [arrays(batch) for batch in Batches(dev.take(np.arange(0, len(dev), 6)), 16)]
    scores = {name: accuracy(examples) for name, examples in sets.items()}
    vocabulary = original.config.vocab_size
    inputs = [random_tokens(vocabulary, LENGTH, np.random.default_rng(0), rows) for rows in (1, 32)]
    with tempfile.TemporaryDirectory() as name:
        paths, rows = {}, []
        for title, model in models.items():
            folder = Path(name) / title.replace(" ", "-")
            record = write_formats(model, folder, samples, list(FORMATS), score=scores["dev"])
            for form, entry in record["formats"].items():
                paths[title, form] = folder / form
                held_out = scores["held-out"](Opened(folder / form))
                weights = max(file["bytes"] for file in entry["files"].values())
                rows.append(
                    {"model": title, "format": form, "dev": entry["score"], "held-out": held_out,
                     "megabytes": weights / 1e6}
                )  # fmt: skip
        times = time_models(paths, inputs)
        for row in rows:
            row["latency"] = {shape: time["median"] for shape, time in times[row["model"], row["format"]].items()}
    show(rows)
    text = json.dumps({"max_length": MAX_LENGTH, "searched": dict(config), "rows": rows}, indent=1)
    (options.output_dir / "formats.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
