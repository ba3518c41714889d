"""How time and memory of each stage grow with the model and with the rows.

BERTs with random weights: one size at a time is varied, the others stay at 4 layers of 256 channels, 30,522 tokens and
256 rows of 32 tokens. Each point runs in a process of its own. Exponents are slopes of straight lines through the
logarithms: 1 is linear. With --large also BERT-large's shape, whose every stage must stay within 20 GiB.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

BASE = {"hidden": 256, "layers": 4, "vocabulary": 30_522, "rows": 256}
SERIES: dict[str, tuple[int, ...]] = {
    "hidden": (128, 256, 512, 1024),
    "layers": (2, 4, 8, 16, 24),
    "vocabulary": (30_522, 100_000, 250_000),
    "rows": (128, 256, 512, 1024),
}
LARGE = {"hidden": 1024, "layers": 24, "vocabulary": 30_522, "rows": 32}
BATCH, LENGTH, MOST_GIB = 16, 32, 20


def one(size: Mapping[str, int]) -> dict[str, dict[str, float]]:
    """Seconds of each stage, and the peak of this process in MiB after it."""
    import paddle
    from paddle import nn
    from paddlenlp.transformers import BertConfig, BertForSequenceClassification

    from ofa_slim import OFA, save_subnet
    from ofa_slim.closed_form import Calibration, statistics
    from ofa_slim.measure import CostModel
    from ofa_slim.tasks import SequenceClassification
    from ofa_slim.train.builders import Teaching, elastic_blocks
    from ofa_slim.train.stack_layers import block_importance
    from ofa_slim.train.task_losses import TaskLosses

    paddle.seed(0)
    hidden = size["hidden"]
    config = BertConfig(
        vocab_size=size["vocabulary"], hidden_size=hidden, num_hidden_layers=size["layers"],
        num_attention_heads=hidden // 64, intermediate_size=4 * hidden, num_labels=2,
    )  # fmt: skip
    model = BertForSequenceClassification(config)
    model.eval()
    rng = np.random.default_rng(0)
    ids = paddle.to_tensor(rng.integers(1000, size["vocabulary"], [size["rows"], LENGTH]))
    batches = [{"input_ids": part} for part in paddle.split(ids, max(1, size["rows"] // BATCH))]
    labelled = [{**batch, "labels": paddle.zeros([len(batch["input_ids"])], "int64")} for batch in batches]
    found: dict[str, dict[str, float]] = {}

    def stage(name: str, work: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        result = work()
        found[name] = {
            "seconds": time.perf_counter() - start,
            "mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }
        return result

    kind = SequenceClassification()
    stage("importance", lambda: block_importance(model, TaskLosses(kind), labelled, "importance"))
    stage("statistics", lambda: statistics(model, Calibration(model, batches)))

    def supernet() -> OFA:
        distill = Teaching().config(model)
        return OFA(model, elastic_blocks(model, [1.0, 0.5], [1.0]), distill)

    ofa = stage("supernet", supernet)
    space = ofa.search_space
    optimizer = paddle.optimizer.AdamW(1e-5, parameters=ofa.parameters())

    def epoch() -> None:
        ofa.train()
        for batch in batches:
            ofa.train_step(batch, nn.functional.mse_loss, [space.largest(), space.smallest()])
            optimizer.step()
            optimizer.clear_grad()
        ofa.eval()

    stage("training", epoch)
    costs = stage("cost model", lambda: CostModel.of(ofa.supernet))
    stage("100 costs", lambda: [costs(space.sample(rng)) for _ in range(100)])
    small = stage("export", lambda: ofa.export(config=space.smallest()))
    with tempfile.TemporaryDirectory() as folder:
        stage("saving", lambda: save_subnet(small, Path(folder) / "small"))
    return found


def measured(size: Mapping[str, int]) -> dict[str, dict[str, float]]:
    """The same in a process of its own."""
    command = [sys.executable, "-W", "ignore", __file__, "--one", json.dumps(size)]
    said = subprocess.run(command, check=True, capture_output=True, encoding="utf-8").stdout
    result: dict[str, dict[str, float]] = json.loads(said.strip().splitlines()[-1])
    return result


def slope(sizes: list[int], values: list[float]) -> float:
    """The exponent of a power of the sizes."""
    return float(np.polyfit(np.log(sizes), np.log(np.maximum(values, 1e-4)), 1)[0])


def draw(found: Mapping[str, Mapping[int, Any]], file: Path) -> None:
    """Draws seconds of each stage against each size."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, len(found), figsize=(4 * len(found), 4), sharey=True, layout="constrained")
    for axes, (name, points) in zip(panels, found.items(), strict=True):
        for stage in next(iter(points.values())):
            axes.plot(list(points), [point[stage]["seconds"] for point in points.values()], marker="o", label=stage)
        axes.set(xscale="log", yscale="log", xlabel=name)
        axes.set_xticks(list(points), labels=[f"{size:,}" for size in points], rotation=30)
        axes.minorticks_off()
        axes.grid(alpha=0.25)
    panels[0].set_ylabel("seconds")
    panels[-1].legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    figure.savefig(file, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--one", type=json.loads, help=argparse.SUPPRESS)
    parser.add_argument("--series", nargs="+", default=list(SERIES), choices=list(SERIES))
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--picture", type=Path, help="where to draw it")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(one(options.one)))
        return
    found: dict[str, dict[int, Any]] = {}
    for name in options.series:
        found[name] = {}
        for value in SERIES[name]:
            found[name][value] = measured({**BASE, name: value})
            print(name, value, json.dumps(found[name][value]), flush=True)
    stages = list(next(iter(next(iter(found.values())).values())))
    print("| stage | " + " | ".join(found) + " |")
    print("| --- |" + " ---: |" * len(found))
    for stage in stages:
        cells = []
        for points in found.values():
            seconds = [point[stage]["seconds"] for point in points.values()]
            cells.append(f"{seconds[0]:.2f} to {seconds[-1]:.2f} s, {slope(list(points), seconds):.2f}")
        print(f"| {stage} | " + " | ".join(cells) + " |")
    last = stages[-1]
    peaks = [
        f"{slope(list(points), [point[last]['mib'] for point in points.values()]):.2f}" for points in found.values()
    ]
    print("| memory | " + " | ".join(peaks) + " |")
    if options.picture is not None:
        draw(found, options.picture)
    if options.large:
        large = measured(LARGE)
        print("BERT-large's shape:", json.dumps(large))
        if large[last]["mib"] > 1024 * MOST_GIB:
            sys.exit(f"more than {MOST_GIB} GiB")


if __name__ == "__main__":
    main()
