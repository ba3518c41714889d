"""Small ERNIEs, generated data and runs of the trainer that its tests share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import nn
from paddlenlp.trainer import Trainer, TrainerCallback, TrainingArguments
from paddlenlp.transformers import (
    UIE,
    ErnieConfig,
    ErnieForQuestionAnswering,
    ErnieForSequenceClassification,
    ErnieForTokenClassification,
)

from ofa_slim.integrations.trainer import OFAArguments, OFATrainer
from ofa_slim.tasks import IGNORED

VOCABULARY = 50
CLASSES = 3
CLASS_OF = {
    "sequence": ErnieForSequenceClassification,
    "token": ErnieForTokenClassification,
    "qa": ErnieForQuestionAnswering,
    "uie": UIE,
}

WIDTHS = {"width_1.0": (4, 24), "width_0.75": (3, 18), "width_0.5": (2, 12)}  # heads and neurons

Row = dict[str, Any]
Weights = dict[str, np.ndarray]


def ernie(kind: str, classes: int = CLASSES, dropout: float = 0.0, layers: int = 2) -> nn.Layer:
    """A small ERNIE, the same one each time."""
    paddle.seed(0)
    return CLASS_OF[kind](
        ErnieConfig(
            vocab_size=VOCABULARY,
            hidden_size=16,
            num_hidden_layers=layers,
            num_attention_heads=4,
            intermediate_size=24,
            max_position_embeddings=32,
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
            num_labels=classes,
            initializer_range=0.2,
        )
    )


def rows(kind: str, count: int = 24, seed: int = 0, longest: int = 9) -> list[Row]:
    """Rows of unequal lengths whose labels can be read off their ids; padding is the collator's."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        ids = rng.integers(1, VOCABULARY, rng.integers(5, longest + 1))
        if kind == "sequence":
            labels: Row = {"labels": int(ids[1] % CLASSES)}
        elif kind == "token":
            labels = {"labels": np.array([IGNORED, *(ids[1:] % CLASSES)])}
        else:
            first = int(rng.integers(1, len(ids) - 1))
            ids[first], ids[first + 1] = 7, 8
            if kind == "qa":
                labels = {"start_positions": first, "end_positions": first + 1}
            else:
                places = np.arange(len(ids))
                labels = {
                    "start_positions": (places == first).astype("float32"),
                    "end_positions": (places == first + 1).astype("float32"),
                }
        found.append({"input_ids": ids, **labels})
    return found


def collate(batch: Sequence[Row], length: int | None = None) -> dict[str, paddle.Tensor]:
    """Pads ids with 0 and labels of tokens with what does not count."""
    length = length or max(len(row["input_ids"]) for row in batch)
    found = {}
    for name in batch[0]:
        values = [np.asarray(row[name]) for row in batch]
        if values[0].ndim:
            fill = 0 if name == "input_ids" or values[0].dtype == np.float32 else IGNORED
            values = [np.pad(value, (0, length - len(value)), constant_values=fill) for value in values]
        found[name] = paddle.to_tensor(np.stack(values))
    return found


def arguments(folder: Path, **more: Any) -> TrainingArguments:
    """Training arguments of a short run that prints nothing."""
    given = {
        "per_device_train_batch_size": 8,
        "per_device_eval_batch_size": 8,
        "num_train_epochs": 2,
        "learning_rate": 5e-3,
        "logging_steps": 100,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        **more,
    }
    return TrainingArguments(output_dir=str(folder), **given)


class Log(TrainerCallback):
    """Keeps what a trainer logs; PaddleNLP 3's keeps nothing of it itself."""

    def __init__(self) -> None:
        self.entries: list[dict[str, Any]] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Keeps an entry."""
        self.entries.append({**logs, "step": state.global_step})


def history(run: Trainer) -> list[dict[str, Any]]:
    """What a trainer that was made with a `Log` has logged."""
    return next(one for one in run.callback_handler.callbacks if isinstance(one, Log)).entries


def trainer(kind: str, folder: Path, model: nn.Layer | None = None, **more: Any) -> OFATrainer:
    """A trainer of one kind; what is no argument of the trainer goes to its training arguments."""
    own = (
        "ofa_args",
        "task",
        "teacher",
        "distill_loss",
        "criterion",
        "compute_metrics",
        "train_dataset",
        "eval_dataset",
        "optimizers",
    )
    given = {name: more.pop(name) for name in own if name in more}
    given.setdefault("ofa_args", OFAArguments(teacher_engine="dygraph"))
    given.setdefault("train_dataset", rows(kind))
    given.setdefault("eval_dataset", rows(kind, seed=1))
    return OFATrainer(
        model=ernie(kind) if model is None else model,
        args=arguments(folder, **more),
        data_collator=collate,
        callbacks=[Log()],
        **given,
    )


def weights(model: nn.Layer) -> Weights:
    """A copy of what a model's state dict holds."""
    return {key: value.numpy().copy() for key, value in model.state_dict().items()}


def plain(**more: Any) -> OFAArguments:
    """Settings whose teacher answers exactly what it computes."""
    return OFAArguments(**{"teacher_engine": "dygraph", **more})


def same(one: Weights, other: Weights) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[key], other[key]) for key in one)
