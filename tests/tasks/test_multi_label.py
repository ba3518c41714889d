from __future__ import annotations

import numpy as np
import paddle
import pytest

from ofa_slim.errors import ConfigError
from ofa_slim.tasks import MultiLabelClassification, SequenceClassification

LOGITS = paddle.to_tensor([[2.0, -1.0, 0.5], [-3.0, 1.0, -0.5]])
LABELS = paddle.to_tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 1.0]])
TASK = MultiLabelClassification()


def test_the_loss_is_that_of_a_decision_for_every_class() -> None:
    chances = 1 / (1 + np.exp(-LOGITS.numpy()))
    wanted = LABELS.numpy()
    expected = -(wanted * np.log(chances) + (1 - wanted) * np.log(1 - chances)).mean()
    assert float(TASK.loss(LOGITS, LABELS)) == pytest.approx(expected, rel=1e-5)
    assert float(TASK.loss(LOGITS, LABELS.astype("int64"))) == pytest.approx(expected, rel=1e-5)


def test_a_student_that_answers_as_its_teacher_has_no_gradient() -> None:
    student = LOGITS.clone()
    student.stop_gradient = False
    TASK.distill(student, LOGITS, temperature=2.0).backward()
    assert float(student.grad.abs().max()) < 1e-6


def test_metrics_count_decisions_classes_and_whole_rows() -> None:
    found = TASK.metrics(LOGITS.numpy(), LABELS.numpy())
    assert found["micro_f1"] == pytest.approx(2 * 2 / (2 * 2 + 1 + 1))
    assert found["macro_f1"] == pytest.approx((1 + 1 + 0) / 3)
    assert found["accuracy"] == 0.0


@pytest.mark.parametrize(
    ("task", "labels", "message"),
    [
        (TASK, LABELS[:, :2], r"labels are float32 \[2, 2\], expected numbers \[2, 3\]"),
        (SequenceClassification(), LABELS, r"labels are float32 \[2, 3\].*MultiLabelClassification"),
        (SequenceClassification(), LABELS.astype("int64"), r"labels are int64 \[2, 3\]"),
        (SequenceClassification(), LABELS[:, 0], r"labels are float32 \[2\].*Regression"),
    ],
)
def test_labels_of_another_task_are_named(task: object, labels: paddle.Tensor, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        task.loss(LOGITS, labels)
