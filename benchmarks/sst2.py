"""What the benchmarks on SST-2 share: its rows, one fine-tuned MiniLM, scores of every width.

Rows 1 to 8,000 of the training file, in the order of ``numpy.random.RandomState(0).permutation``, train; the dev
file scores, and so do rows 8,001 to 12,000 of that order, which nothing here trains on.
"""

from __future__ import annotations

import argparse
import copy
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import paddle
from paddle import nn

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "examples"))

from ofa_slim import OFA, SearchSpace, dynabert_config, load_subnet, save_subnet  # noqa: E402
from ofa_slim.importance import reorder_neuron_head  # noqa: E402
from ofa_slim.integrations.paddlenlp import load_sequence_classifier  # noqa: E402
from ofa_slim.job.glue import TASKS, Rows  # noqa: E402
from ofa_slim.job.stage_folders import check_mark, new_folder  # noqa: E402
from ofa_slim.job.tokenised import tokenise  # noqa: E402
from ofa_slim.tasks.task_kind import TaskKind  # noqa: E402
from ofa_slim.train.batches import Batches, Examples  # noqa: E402
from ofa_slim.train.builders import Strategy, Teaching, elastic_blocks  # noqa: E402
from ofa_slim.train.fitting import evaluate, finetune, train_supernet  # noqa: E402
from ofa_slim.train.loop import Schedule  # noqa: E402
from ofa_slim.train.stack_layers import block_importance  # noqa: E402
from ofa_slim.train.task_losses import TaskLosses  # noqa: E402

TRAIN, JUDGE = 8_000, 4_000
MAX_LENGTH, BATCH = 48, 32
TASK = TASKS["sst-2"]
TASK_FOLDER = "SST-2"

Scores = dict[float, dict[str, float]]
"""Accuracy by width and by set, in per cent."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that these benchmarks share."""
    parser.add_argument("--data_dir", type=Path, default=Path(os.environ.get("GLUE_DIR", ROOT / "data/GLUE")))
    parser.add_argument("--model", type=Path, default=ROOT / "data/minilm")
    parser.add_argument("--output_dir", type=Path, default=ROOT / "runs/sst-2", help="keeps the checkpoint")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--learning_rate", type=float, default=1e-4)
    parser.add_argument("--lambda_rep", type=float, default=1.0)
    parser.add_argument("--lambda_logit", type=float, default=1.0)
    parser.add_argument("--importance_batches", type=int, default=250)


def missing(options: argparse.Namespace) -> str | None:
    """Why these benchmarks cannot run here; None where they can."""
    folder = options.data_dir / TASK_FOLDER
    return None if folder.is_dir() else f"left out, {folder} is not there"


def prepare(options: argparse.Namespace, rows: int = TRAIN) -> tuple[nn.Layer, Examples, dict[str, Examples]]:
    """The model fine-tuned on the first of the training rows, these rows, and the two sets that score."""
    paddle.seed(0)
    model, tokenizer = load_sequence_classifier(str(options.model), TASK.num_classes)
    train, sets = read(options.data_dir, tokenizer)
    train = train.take(np.arange(rows))
    return checkpoint(model, train, options.output_dir / "checkpoint"), train, sets


def read(data_dir: Path, tokenizer: object) -> tuple[Examples, dict[str, Examples]]:
    """The training rows and the two sets that score."""
    train, _, sets = read_rows(data_dir)
    scoring = {name: tokenise(tokenizer, rows, MAX_LENGTH) for name, rows in sets.items()}
    return tokenise(tokenizer, train, MAX_LENGTH), scoring


def read_rows(data_dir: Path) -> tuple[Rows, Rows, dict[str, Rows]]:
    """The training rows, those that neither train nor score, and the two sets that score."""
    rows, dev = TASK.read(data_dir)
    order = np.random.RandomState(0).permutation(len(rows))
    train, judge, others = np.split(order, [TRAIN, TRAIN + JUDGE])
    first, held_out, left = (
        Rows([rows.first[row] for row in part], [], rows.labels[part]) for part in (train, judge, others)
    )
    return first, left, {"dev": dev["dev"], "held-out": held_out}


def checkpoint(model: nn.Layer, train: Examples, folder: Path, kind: TaskKind = TASK.kind) -> nn.Layer:
    """The fine-tuned model, trained once and kept in `folder`."""
    if not folder.is_dir():
        paddle.seed(0)
        finetune(model, train, kind, Schedule(3, BATCH, 5e-5), np.random.default_rng(0))
        save_subnet(model, folder)
    return load_subnet(folder)


def reordered(teacher: nn.Layer, train: Examples, batches: int, rng: np.random.Generator) -> nn.Layer:
    """A copy of the fine-tuned model, its heads and neurons in order of their importance in some batches."""
    student = copy.deepcopy(teacher)
    chosen = list(Batches(train, BATCH, rng))[:batches]
    reorder_neuron_head(student, *block_importance(student, TaskLosses(TASK.kind), chosen, "importance"))
    return student


def supernet_of(
    model: nn.Layer, widths: Sequence[float], depths: Sequence[float] = (1.0,), teaching: Teaching | None = None
) -> OFA:
    """A supernet of the model, in place."""
    distill = None if teaching is None else teaching.config(model)
    return OFA(model, elastic_blocks(model, widths, depths), distill)


@dataclass(frozen=True)
class Supernet:
    """How a supernet is made: what its sub-networks may be, and which of them a batch trains."""

    name: str
    widths: Sequence[float]
    depths: Sequence[float]
    strategy: Callable[[SearchSpace], Strategy]


def trained_supernet(
    kind: Supernet, options: argparse.Namespace, teacher: nn.Layer, train: Examples, epochs: int, seed: int
) -> OFA:
    """A supernet of the fine-tuned model, trained once and kept in `output_dir`."""
    folder = options.output_dir / f"supernet-{kind.name}-{epochs}-epochs-seed-{seed}"
    settings = {
        "widths": list(kind.widths),
        "depths": list(kind.depths),
        "learning_rate": options.learning_rate,
        "lambdas": [options.lambda_rep, options.lambda_logit],
        "importance_batches": options.importance_batches,
    }
    if folder.is_dir():
        check_mark(folder, settings)
        ofa = supernet_of(load_subnet(folder / "model"), kind.widths, kind.depths)
    else:
        paddle.seed(seed)
        rng = np.random.default_rng(seed)
        student = reordered(teacher, train, options.importance_batches, rng)
        ofa = supernet_of(student, kind.widths, kind.depths, Teaching(teacher, lambda_distill=options.lambda_rep))
        schedule = Schedule(epochs, BATCH, options.learning_rate)
        strategy = kind.strategy(ofa.search_space)
        train_supernet(ofa, train, TASK.kind, schedule, rng, strategy, options.lambda_logit, title=kind.name)
        with new_folder(folder, {"settings": settings}) as aside:
            save_subnet(ofa.export(config=ofa.search_space.largest()), aside / "model")
    ofa.eval()
    return ofa


def scores(model: nn.Layer, sets: Mapping[str, Examples]) -> dict[str, float]:
    """Accuracy on each set, in per cent."""
    kind = TASK.kind
    return {name: 100 * evaluate(model, Batches(examples, 64), kind)["accuracy"] for name, examples in sets.items()}


def width_scores(ofa: OFA, widths: Sequence[float], sets: Mapping[str, Examples]) -> Scores:
    """`scores` of every width."""
    found = {}
    for width in widths:
        with ofa.subnet(dynabert_config(ofa, width)):
            found[width] = scores(ofa.model, sets)
    return found
