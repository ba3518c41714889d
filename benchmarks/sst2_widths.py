"""What one epoch of supernet training costs in accuracy at each width, on SST-2.

Rows 1 to 8,000 of the training file, in the order of ``numpy.random.RandomState(0).permutation``, train;
the dev file scores, and so do rows 8,001 to 12,000 of that order, which nothing here trains on. One MiniLM is
fine-tuned; from that checkpoint one supernet is trained per seed. The table gives the change against the
checkpoint in points, mean and standard error over the seeds.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
from pathlib import Path

import numpy as np
import paddle
from paddle import nn

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "examples"))

from glue.data import Batches, Examples, tokenise  # noqa: E402  found through the line above
from glue.tasks import TASKS, Rows  # noqa: E402
from glue.training import Schedule, build_supernet, evaluate, finetune, importance, train_supernet  # noqa: E402
from ofa_slim import OFA, dynabert_config, load_subnet, save_subnet  # noqa: E402
from ofa_slim.importance import reorder_neuron_head  # noqa: E402
from ofa_slim.integrations.paddlenlp import load_sequence_classifier  # noqa: E402

TRAIN, JUDGE = 8_000, 4_000
MAX_LENGTH, BATCH = 48, 32
TASK = TASKS["sst-2"]


def read(data_dir: Path, tokenizer: object) -> tuple[Examples, dict[str, Examples]]:
    """The training rows and the two sets that score."""
    rows, dev = TASK.read(data_dir)
    order = np.random.RandomState(0).permutation(len(rows))

    def part(chosen: np.ndarray) -> Rows:
        return Rows([rows.first[row] for row in chosen], [], rows.labels[chosen])

    train = tokenise(tokenizer, part(order[:TRAIN]), MAX_LENGTH)
    return train, {
        "dev": tokenise(tokenizer, dev["dev"], MAX_LENGTH),
        "held-out": tokenise(tokenizer, part(order[TRAIN : TRAIN + JUDGE]), MAX_LENGTH),
    }


def scores(model: nn.Layer, sets: dict[str, Examples]) -> dict[str, float]:
    """Accuracy on each set, in per cent."""
    return {name: 100 * evaluate(model, Batches(examples, 64), TASK)["accuracy"] for name, examples in sets.items()}


def width_scores(ofa: OFA, widths: list[float], sets: dict[str, Examples]) -> dict[float, dict[str, float]]:
    """`scores` of every width."""
    found = {}
    for width in widths:
        with ofa.subnet(dynabert_config(ofa, width)):
            found[width] = scores(ofa.model, sets)
    return found


def checkpoint(model: nn.Layer, train: Examples, folder: Path) -> nn.Layer:
    """The fine-tuned model, trained once and kept in `folder`."""
    if not folder.is_dir():
        paddle.seed(0)
        finetune(model, train, TASK, Schedule(3, BATCH, 5e-5), np.random.default_rng(0))
        save_subnet(model, folder)
    return load_subnet(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data_dir", type=Path, default=ROOT.parent / "shared/data/GLUE")
    parser.add_argument("--model", type=Path, default=ROOT / "data/minilm")
    parser.add_argument("--output_dir", type=Path, default=ROOT / "runs/sst2_widths")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--widths", type=float, nargs="+", default=[1.0, 0.75, 0.5, 0.25])
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--learning_rate", type=float, default=1e-4)
    parser.add_argument("--lambda_rep", type=float, default=1.0)
    parser.add_argument("--lambda_logit", type=float, default=1.0)
    parser.add_argument("--importance_batches", type=int, default=250)
    options = parser.parse_args()
    if not (options.data_dir / TASK_FOLDER).is_dir():
        print(f"sst2_widths: left out, {options.data_dir / TASK_FOLDER} is not there")
        return
    paddle.seed(0)
    model, tokenizer = load_sequence_classifier(str(options.model), TASK.num_classes)
    train, sets = read(options.data_dir, tokenizer)
    teacher = checkpoint(model, train, options.output_dir / "checkpoint")
    base = scores(teacher, sets)
    print("checkpoint", json.dumps(base), flush=True)
    changes = []
    for seed in options.seeds:
        paddle.seed(seed)
        rng = np.random.default_rng(seed)
        student = copy.deepcopy(teacher)
        start = time.perf_counter()
        batches = list(Batches(train, BATCH, rng))[: options.importance_batches]
        reorder_neuron_head(student, *importance(student, batches, TASK))
        scored = time.perf_counter()
        ofa = build_supernet(student, options.widths, teacher, options.lambda_rep)
        untrained = width_scores(ofa, options.widths, {"dev": sets["dev"]})
        begin = time.perf_counter()
        schedule = Schedule(options.epochs, BATCH, options.learning_rate)
        train_supernet(ofa, train, TASK, schedule, rng, widths=options.widths, lambda_logit=options.lambda_logit)
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


TASK_FOLDER = "SST-2"

if __name__ == "__main__":
    main()
