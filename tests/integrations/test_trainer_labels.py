"""Labels of every type and shape that a dataset may give: trained on, or refused by name before Paddle sees them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

from ofa_slim.errors import ConfigError
from ofa_slim.integrations.trainer import OFATrainer
from ofa_slim.tasks import IGNORED, LanguageModelling, QuestionAnswering, SequenceClassification, TaskKind
from trainer_runs import arguments, ernie, plain

LENGTH = 6
Label = Callable[[int], Any]


def data(label: Label, name: str = "labels") -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    return [{"input_ids": rng.integers(1, 50, LENGTH), name: label(row)} for row in range(16)]


def collate(batch: list[dict[str, Any]]) -> dict[str, paddle.Tensor]:
    return {name: paddle.to_tensor(np.stack([np.asarray(row[name]) for row in batch])) for name in batch[0]}


def trainer(kind: str, classes: int, label: Label, folder: Path, evaluated: Label | None = None) -> OFATrainer:
    return OFATrainer(
        ernie(kind, classes),
        args=arguments(folder, max_steps=1),
        data_collator=collate,
        train_dataset=data(label),
        eval_dataset=data(evaluated or label),
        ofa_args=plain(lambda_task=1.0),
    )


@pytest.mark.parametrize(
    ("classes", "label"),
    [
        (3, lambda row: np.int32(row % 3)),
        (3, lambda row: np.array([row % 3])),
        (3, lambda row: IGNORED if row else 1),
        (2, lambda row: np.bool_(row % 2)),
        (3, lambda row: np.eye(3, dtype="int64")[row % 3]),
        (3, lambda row: np.eye(3, dtype="float64")[row % 3]),
        (1, lambda row: np.int64(row)),
        (1, lambda row: np.float64(row / 3)),
        (1, lambda row: np.float32([row / 3])),
    ],
)
def test_types_that_say_the_same_are_trained_and_scored(classes: int, label: Label, tmp_path: Path) -> None:
    run = trainer("sequence", classes, label, tmp_path)
    run.train()
    assert np.isfinite(run.evaluate()["eval_loss"])


@pytest.mark.parametrize(
    ("kind", "classes", "label", "message"),
    [
        ("sequence", 3, lambda row: row % 5, "label 3 is no class of the model, which are 0 to 2"),
        ("sequence", 3, lambda row: -1, "label -1 is no class"),
        ("sequence", 3, lambda row: np.float32(1), r"labels are float32 \[8\]"),
        ("sequence", 3, lambda row: np.float32([0, 2, 1]), "label 2.0 is not from 0 to 1"),
        ("sequence", 3, lambda row: np.float32([0, 1]), r"labels are float32 \[8, 2\], expected numbers \[8, 3\]"),
        ("sequence", 1, lambda row: np.float32("nan"), "label nan is not a finite number"),
        ("sequence", 1, lambda row: np.float32([1, 2]), r"labels are float32 \[8, 2\], expected numbers \[8, 1\]"),
        ("token", 3, lambda row: np.arange(LENGTH), "label 3 is no class"),
        ("token", 3, lambda row: np.zeros(LENGTH - 1, "int64"), r"expected whole numbers \[8, 6\]"),
        ("token", 3, lambda row: 1, r"labels are int64 \[8\], expected whole numbers \[8, 6\]"),
        ("token", 3, lambda row: np.zeros(LENGTH, "float32"), r"labels are float32 \[8, 6\], expected whole numbers"),
    ],
)
def test_labels_that_do_not_fit_are_named_before_anything_changes(
    kind: str, classes: int, label: Label, message: str, tmp_path: Path
) -> None:
    run = trainer(kind, classes, label, tmp_path)
    before = {name: value.numpy().copy() for name, value in run.model.state_dict().items()}
    with pytest.raises(ConfigError, match=message):
        run.train()
    assert all(np.array_equal(value.numpy(), before[name]) for name, value in run.model.state_dict().items())


def test_labels_of_the_evaluation_alone_are_checked_too(tmp_path: Path) -> None:
    run = trainer("sequence", 3, lambda row: row % 3, tmp_path, evaluated=lambda row: 7)
    with pytest.raises(ConfigError, match="label 7 is no class"):
        run.evaluate()
    run = trainer("token", 3, lambda row: np.zeros(LENGTH, "int64"), tmp_path, lambda row: np.full(LENGTH, IGNORED))
    with pytest.raises(ConfigError, match="no label counts"):
        run.evaluate()


@pytest.mark.parametrize(
    ("task", "output", "labels", "message"),
    [
        (SequenceClassification(), paddle.zeros([2, 3]), paddle.to_tensor([0, 3]), "label 3 is no class"),
        (LanguageModelling(), paddle.zeros([2, 4, 9]), paddle.to_tensor([[1, 2, 3, 9]] * 2), "label 9 is no class"),
        (LanguageModelling(), paddle.zeros([2, 4, 9]), paddle.to_tensor([1, 2]), "labels are int64"),
        (
            QuestionAnswering(),
            (paddle.zeros([2, 4]), paddle.zeros([2, 4])),
            (paddle.to_tensor([0.5, 1.0]), paddle.to_tensor([1, 2])),
            "start_positions: labels are float32",
        ),
    ],
)
def test_losses_of_ones_own_loop_check_them_as_well(task: TaskKind, output: Any, labels: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        task.loss(output, labels)
