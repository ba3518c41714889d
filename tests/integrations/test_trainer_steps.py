"""One step of the supernet trainer: its loss, its gradients, its order of heads and neurons."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from paddle.nn import functional as F

from models import difference
from ofa_slim.integrations.trainer import OFAArguments
from ofa_slim.train.stack_layers import block_importance
from trainer_runs import CLASS_OF, collate, ernie, history, plain, rows, same, trainer, weights


def test_accumulated_batches_are_one_larger_batch(tmp_path: Path) -> None:
    data = [row for row in rows("token", 90) if len(row["input_ids"]) == 9][:16]
    found = []
    for size in (16, 4):
        run = trainer(
            "token",
            tmp_path / str(size),
            train_dataset=data,
            ofa_args=plain(strategy="sampled", subnets=2),
            per_device_train_batch_size=size,
            gradient_accumulation_steps=16 // size,
            num_train_epochs=2,
            logging_steps=1,
        )
        run.train()
        losses = [entry["loss"] for entry in history(run) if "loss" in entry]
        assert len(losses) == 2
        found.append((losses, weights(run.model)))
    (one, larger), (other, smaller) = found
    assert one == pytest.approx(other, rel=1e-4)
    for key, value in larger.items():
        assert np.abs(value - smaller[key]).max() < 1e-3, key  # of steps of 5e-3


@pytest.mark.parametrize("kind", CLASS_OF)
def test_padding_changes_neither_losses_nor_gradients(kind: str, tmp_path: Path) -> None:
    run = trainer(kind, tmp_path, ofa_args=plain(lambda_task=0.5))
    batch = rows(kind, 8)
    found = []
    for length in (9, 20):
        loss = run.training_step(run.model, collate(batch, length))
        grads = {name: one.grad.numpy().copy() for name, one in run.model.named_parameters() if one.grad is not None}
        found.append((float(loss), grads))
        run.model.clear_gradients()
    (one, grads), (other, others) = found
    assert one == pytest.approx(other, rel=1e-5)
    for name, grad in grads.items():
        assert np.abs(grad - others[name]).max() < 1e-5 * max(1.0, float(np.abs(grad).max())), name


@pytest.mark.parametrize("kind", CLASS_OF)
def test_padding_changes_no_importance(kind: str, tmp_path: Path) -> None:
    kept: list[Any] = []
    run = trainer(kind, tmp_path)
    for length in (9, 20):
        loader = [collate(rows(kind, 8, seed), length) for seed in range(3)]
        kept.append(block_importance(run.model, run._losses, loader, "", limit=2))
    (heads, neurons), (other, others) = kept
    assert float(heads.min()) > 0
    for one, two in zip([heads, *neurons], [other, *others], strict=True):
        assert difference(one, two) < 1e-5 * float(one.max())


def test_heads_and_neurons_are_put_in_order_once(tmp_path: Path) -> None:
    model = ernie("sequence")
    before = weights(model)
    run = trainer("sequence", tmp_path, model, learning_rate=0.0, max_steps=1)
    run.train()
    after = weights(model)
    name = "ernie.encoder.layers.0.linear1.weight"
    assert not np.array_equal(before[name], after[name])
    assert np.array_equal(np.sort(before[name], axis=1), np.sort(after[name], axis=1))
    run.train()
    assert same(weights(model), after)
    kept = ernie("sequence")
    trainer("sequence", tmp_path, kept, learning_rate=0.0, max_steps=1, ofa_args=plain(importance=False)).train()
    assert same(weights(kept), before)


def test_losses_and_metrics_of_the_user(tmp_path: Path) -> None:
    """The criterion scores importance and trains beside the teacher; the distillation replaces the kind's."""
    criterion_calls, distill_calls = [], []

    def criterion(output: paddle.Tensor, labels: paddle.Tensor) -> paddle.Tensor:
        criterion_calls.append(labels.shape)
        return F.cross_entropy(output, labels)

    def distill_loss(student: paddle.Tensor, teacher: paddle.Tensor, batch: dict[str, Any]) -> paddle.Tensor:
        distill_calls.append(sorted(batch))
        return F.mse_loss(student, teacher)

    def compute_metrics(prediction: Any) -> dict[str, float]:
        return {"lowest": float(prediction.predictions.min())}

    run = trainer(
        "sequence",
        tmp_path,
        criterion=criterion,
        distill_loss=distill_loss,
        compute_metrics=compute_metrics,
        ofa_args=plain(lambda_task=0.5, lambda_distill=0.0, importance_batches=2),
        evaluation_strategy="epoch",
        metric_for_best_model="eval_lowest",
        greater_is_better=False,
        num_train_epochs=1,
    )
    run.train()
    # two batches of importance, three batches of three sub-networks, three evaluations of three batches
    assert len(criterion_calls) == 2 + 9 + 9
    assert distill_calls == [["input_ids", "labels"]] * 9
    about = json.loads((tmp_path / "width_0.5" / "metrics.json").read_text())
    assert about["metric"] == "lowest"
    assert about["value"] == history(run)[-2]["eval_width_0.5_lowest"]


def test_the_loss_is_what_the_settings_say(tmp_path: Path) -> None:
    run = trainer("sequence", tmp_path, ofa_args=plain(widths=[0.5], lambda_logit=2.0, lambda_distill=0.0))
    batch = collate(rows("sequence", 8))
    inputs = {"input_ids": batch["input_ids"]}
    loss = float(run.training_step(run.model, dict(batch)))
    teacher = ernie("sequence")
    teacher.eval()
    with run.ofa.subnet(run.subnets["width_0.5"]):
        student = run.model(**inputs)
    soft = F.cross_entropy(student, F.softmax(teacher(**inputs)), soft_label=True)
    assert loss == pytest.approx(2 * float(soft), rel=1e-5)
    alone = trainer("sequence", tmp_path, ofa_args=plain(widths=[0.5], teacher="none"))
    task = float(F.cross_entropy(student, batch["labels"]))
    assert float(alone.training_step(alone.model, dict(batch))) == pytest.approx(task, rel=1e-5)


def test_every_sub_network_runs_in_mixed_precision_with_a_scaled_loss(tmp_path: Path) -> None:
    """With stand-ins, as Paddle has no mixed precision on CPUs."""
    run = trainer("sequence", tmp_path)
    batch = collate(rows("sequence", 8))
    run.training_step(run.model, dict(batch))
    grads = {name: one.grad.numpy().copy() for name, one in run.model.named_parameters() if one.grad is not None}
    run.model.clear_gradients()

    class Scaler:
        def scale(self, loss: paddle.Tensor) -> paddle.Tensor:
            return loss * 8.0

    inside: list[bool] = []
    cast = [False]

    @contextmanager
    def autocast() -> Iterator[None]:
        cast[0] = True
        yield
        cast[0] = False

    run.do_grad_scaling, run.scaler, run.autocast_smart_context_manager = True, Scaler(), autocast
    run.model.ernie.register_forward_pre_hook(lambda layer, given: inside.append(cast[0]))
    run.training_step(run.model, dict(batch))
    assert inside == [True] * 3
    for name, one in run.model.named_parameters():
        if one.grad is not None:
            np.testing.assert_allclose(one.grad.numpy(), 8 * grads[name], rtol=1e-3, atol=1e-5)


def test_the_teacher_is_whole_whatever_ran_before(tmp_path: Path) -> None:
    model = ernie("sequence")
    ids = collate(rows("sequence"))["input_ids"]
    model.eval()
    expected = model(ids)
    first = trainer("sequence", tmp_path, model)
    first.ofa.set_net_config(first.ofa.search_space.smallest())
    again = trainer("sequence", tmp_path, model, ofa_args=OFAArguments(importance=False, teacher_engine="dygraph"))
    again.ofa.eval()
    assert difference(again.ofa(ids)[1], expected) == 0
