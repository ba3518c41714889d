"""Which checkpoints are kept, and which are refused: of other settings, of other parts, of other shapes."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from paddle import nn
from safetensors.paddle import load_file

from checkpoint_runs import Holder, Net, adam, bits, run_of, train
from ofa_slim import CheckpointManager
from ofa_slim.errors import CheckpointError


def test_the_last_and_the_best_are_kept(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path, keep=2)
    assert manager.best is None
    assert manager.latest is None
    assert manager.restore({}) is None
    assert manager.restore_best({}) is None
    layer = nn.Linear(1, 1)
    for step, score in ((1, None), (2, 0.7), (3, 0.9), (4, math.nan), (5, 0.9), (6, 0.1)):
        layer.weight.set_value(paddle.full([1, 1], float(step)))
        manager.save(step, {"model": layer}, score=score)
    assert [one.step for one in manager.checkpoints] == [3, 5, 6]
    assert (manager.latest.step, manager.best.step, manager.best.score) == (6, 3, 0.9)
    assert CheckpointManager(tmp_path, lower_is_better=True).best.step == 6
    paddle.seed(3)
    expected = bits(paddle.rand([2]))
    paddle.seed(3)
    assert manager.restore_best({"model": layer}, partial=True) == 3
    assert layer.weight.tolist() == [[3.0]]
    assert bits(paddle.rand([2])) == expected


def test_a_nan_score_is_written_as_valid_json(tmp_path: Path) -> None:
    def no_constant(text: str) -> None:
        raise AssertionError(text)

    manager = CheckpointManager(tmp_path, recipe={"clip": math.inf})
    saved = manager.save(1, {}, score=math.nan)
    json.loads((saved.path / "manifest.json").read_text(), parse_constant=no_constant)
    assert math.isnan(manager.latest.score)
    manager.check_recipe()


def test_another_recipe_is_refused_with_the_keys_that_differ(tmp_path: Path) -> None:
    layer = nn.Linear(1, 1)
    first = CheckpointManager(tmp_path, recipe={"lr": 0.1, "widths": (1, 0.5), "data": {"rows": 9}, "old": None})
    first.save(1, {"model": layer})
    first.check_recipe()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    value = bits(layer.weight)
    other = CheckpointManager(tmp_path, recipe={"lr": 0.2, "widths": [1, 0.5], "data": {"rows": 8}, "new": 1})
    expected = (
        r"other settings: lr \(0.1 there, 0.2 now\), data.rows \(9 there, 8 now\), old \(only there: None\), "
        r"new \(only now: 1\)\. Use another directory"
    )
    (tmp_path / ".step-00000002.999999999.partial").mkdir()
    for call in (
        other.check_recipe,
        lambda: other.restore({"model": layer}),
        lambda: other.save(2, {"model": layer}),
    ):
        with pytest.raises(CheckpointError, match=expected):
            call()
    (tmp_path / ".step-00000002.999999999.partial").rmdir()
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    assert bits(layer.weight) == value
    with pytest.raises(CheckpointError, match=r"the recipe: the state's 'model' is a Linear"):
        CheckpointManager(tmp_path, recipe={"model": layer})
    with pytest.raises(CheckpointError, match="'rate' is not plain JSON"):
        CheckpointManager(tmp_path, recipe={"rate": np.float32(1)})


def test_later_steps_are_not_overwritten_without_a_restore(tmp_path: Path) -> None:
    layer = nn.Linear(1, 1)
    first = CheckpointManager(tmp_path, keep=3)
    for step in (1, 2, 3):
        first.save(step, {"model": layer}, score=-step)
    forgetful = CheckpointManager(tmp_path)
    with pytest.raises(CheckpointError, match="already holds step 3, and step 2 is not after it: restore first"):
        forgetful.save(2, {"model": layer})
    assert [one.step for one in first.checkpoints] == [1, 2, 3]
    assert forgetful.restore_best({"model": layer}) == 1
    with pytest.raises(CheckpointError, match="step 0 is before step 1"):
        forgetful.save(0, {"model": layer})
    assert [one.step for one in first.checkpoints] == [1, 2, 3]
    layer.weight.set_value(paddle.full([1, 1], 5.0))
    forgetful.save(2, {"model": layer})
    assert [one.step for one in first.checkpoints] == [1, 2]
    assert load_file(str(tmp_path / "step-00000002" / "model.safetensors"))["weight"].tolist() == [[5.0]]


class Picky(Holder):
    def load_state_dict(self, state: Any) -> None:
        if state == "refused":
            raise ValueError("not that one")
        self.state = state


def fits(tmp_path: Path) -> tuple[CheckpointManager, dict[str, Any]]:
    parts = run_of()
    train(parts, 0, 2)
    manager = CheckpointManager(tmp_path)
    manager.save(2, {**parts, "picky": Picky("refused")})
    return manager, {**run_of(), "picky": Picky("fine")}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda parts: parts.pop("rng"), "part 'rng' is in the checkpoint but not given"),
        (lambda parts: parts.update(ema=Net()), "part 'ema' is not in the checkpoint"),
        (lambda parts: parts.update(model=nn.Linear(6, 8), optimizer=None), "part 'optimizer' is a NoneType"),
        (
            lambda parts: parts["model"].add_sublayer("more", nn.Linear(1, 1)),
            r"part 'model': missing in the checkpoint: more.weight; .*missing in the checkpoint: more.bias",
        ),
        (lambda parts: delattr(parts["model"], "norm"), r"part 'model': unexpected in the checkpoint: norm.weight"),
        (
            lambda parts: parts["model"].branches.insert(0, nn.Linear(8, 3)),
            r"branches.0.weight is float32 \[8, 2\] in the checkpoint and float32 \[8, 3\] here",
        ),
        (
            lambda parts: parts["model"].first.to(dtype="float64"),
            r"first.weight is float32 \[6, 8\] in the checkpoint and float64 \[6, 8\] here",
        ),
        (
            lambda parts: parts.update(adam(parts["model"].parameters())),
            "part 'optimizer' is a optimizer AdamW in the checkpoint and a optimizer Adam here",
        ),
        (
            lambda parts: parts.update(
                optimizer=paddle.optimizer.AdamW(0.1, parameters=parts["model"].branches.parameters())
            ),
            "unexpected in the checkpoint: state of model/first.weight, which this optimizer does not update",
        ),
        (
            lambda parts: parts.update(optimizer=paddle.optimizer.AdamW(0.1, parameters=parts["model"].parameters())),
            "learning rate scheduler: one in the checkpoint, none here",
        ),
        (lambda parts: parts["scaler"].state.clear(), "part 'scaler': unexpected in the checkpoint: scale"),
        (
            lambda parts: parts.update(rng=np.random.Generator(np.random.MT19937(1))),
            "part 'rng' is a generator PCG64 in the checkpoint and a generator MT19937 here",
        ),
        (lambda parts: None, "could not be restored, nothing was changed: not that one"),
        (
            lambda parts: parts.update(
                picky=Holder(),
                optimizer=paddle.optimizer.AdamW(
                    parts["scheduler"], parameters=parts["model"].parameters(), amsgrad=True
                ),
            ),
            "part 'optimizer' has other options than the one that was saved: missing in the checkpoint: moment2_max of",
        ),
    ],
)
def test_a_checkpoint_that_does_not_fit_changes_nothing(change: Any, message: str, tmp_path: Path) -> None:
    manager, parts = fits(tmp_path)
    change(parts)

    def seen() -> Any:
        rest = {name: part for name, part in parts.items() if name not in ("optimizer", "rng")}
        rng = None if "rng" not in parts else parts["rng"].bit_generator.state
        gradients = [parameter.grad for parameter in parts["model"].parameters()]
        state = {name: part.state_dict() for name, part in rest.items()}
        return bits([state, rng, gradients]), paddle.get_rng_state()[0].__getstate__()

    train_once(parts["model"])
    before = seen()
    with pytest.raises(CheckpointError, match=message):
        manager.restore(parts)
    assert seen() == before


def train_once(net: nn.Layer) -> None:
    for parameter in net.parameters():
        parameter.grad = paddle.ones_like(parameter)


def test_a_new_checkpoint_is_refused_by_an_optimizer_with_more_state(tmp_path: Path) -> None:
    net = Net()
    optimizer = paddle.optimizer.Adam(0.1, parameters=net.parameters())
    manager = CheckpointManager(tmp_path)
    manager.save(0, {"model": net, "optimizer": optimizer})
    net(paddle.ones([2, 6]), 0).sum().backward()
    optimizer.step()
    with pytest.raises(
        CheckpointError, match=r"missing in the checkpoint: state of model/first.weight; a new optimizer"
    ):
        manager.restore({"model": net, "optimizer": optimizer})


def test_an_optimizer_needs_its_parameters_beside_it(tmp_path: Path) -> None:
    parts = run_of()
    train(parts, 0, 1)
    with pytest.raises(CheckpointError, match="whose parameter is in none of the parts: give the layer"):
        CheckpointManager(tmp_path).save(1, {"optimizer": parts["optimizer"]})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda path: CheckpointManager(path, keep=0), "keep is 0, not a whole number of at least 1"),
        (lambda path: CheckpointManager(path).save(-1, {}), "step is -1, not a whole number of at least 0"),
        (lambda path: CheckpointManager(path).save(True, {}), "step is True"),
        (lambda path: CheckpointManager(path).save(0, {"a/b": Holder()}), "'a/b' is not the name of a part"),
        (lambda path: CheckpointManager(path).save(0, {"manifest": Holder()}), "'manifest' is not the name of a part"),
        (lambda path: CheckpointManager(path).save(0, {"x": 3}), "part 'x' is a int; a part is a layer"),
        (lambda path: CheckpointManager(path).save(0, {"x": [1]}), "part 'x': '0' is a int, not a tensor"),
    ],
)
def test_invalid_values_are_refused(call: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=message):
        call(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_random_state_of_an_unused_device_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from ofa_slim.train.checkpoint import manager as module

    state = module.paddle_state()
    monkeypatch.setattr(module, "paddle_state", lambda: {**state, "gpu": state["cpu"]})
    manager = CheckpointManager(tmp_path)
    manager.save(0, {})
    with caplog.at_level(logging.WARNING):
        manager.restore({})
    assert "random state of gpu is not used" in caplog.text
    state["cpu"][0]["engine"] = "not an engine"
    manager.save(1, {})
    with pytest.raises(CheckpointError, match="does not read the saved random state of cpu"):
        manager.restore({})
