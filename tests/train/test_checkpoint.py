"""A run that is saved and restored goes on with the same bits."""

from __future__ import annotations

import json
import logging
import math
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from paddle import nn
from paddle.nn import functional as F
from safetensors.paddle import load_file

from models import batch, bert, labels, ofa_of
from ofa_slim import CheckpointManager, dynabert_config, stop_on_signals
from ofa_slim.errors import CheckpointError
from ofa_slim.train.checkpoint.optimizers import ParameterKeys
from ofa_slim.train.checkpoint.parts import TensorsPart


class Net(nn.Layer):
    """Two branches with dropout; batch norm has buffers, and only one branch runs in a step."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.norm = nn.BatchNorm1D(8)
        self.branches = nn.LayerList([nn.Linear(8, 2), nn.Linear(8, 2)])
        self.tied = self.first

    def forward(self, x: paddle.Tensor, branch: int) -> paddle.Tensor:
        return self.branches[branch](F.dropout(F.relu(self.norm(self.first(x))), 0.5))


class Order:
    """A sampler of the user's own."""

    def __init__(self) -> None:
        self.rows = np.arange(5, dtype=np.uint16)
        self.seen: dict[Any, Any] = {}
        self.loss = math.nan

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows, "seen": self.seen, "loss": self.loss}

    def set_state_dict(self, state: dict[str, Any]) -> None:
        self.rows, self.seen, self.loss = state["rows"], state["seen"], state["loss"]


class Scaler(paddle.amp.GradScaler):
    """Paddle's own is never enabled on a CPU; this one's state is of the same form as an enabled one's there."""

    def __init__(self) -> None:
        super().__init__(enable=False)
        self.state: dict[str, Any] = {"scale": np.array([64.0], np.float32), "incr_ratio": 2.0, "incr_count": 0}

    def update(self) -> None:
        self.state = {**self.state, "scale": self.state["scale"] * 0.3, "incr_count": self.state["incr_count"] + 1}

    def state_dict(self) -> dict[str, Any]:
        return self.state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.state = state


Make = Callable[[list[paddle.Tensor]], dict[str, Any]]


def adam(parameters: list[paddle.Tensor], **options: Any) -> dict[str, Any]:
    rate = paddle.optimizer.lr.StepDecay(0.05, 2)
    return {"optimizer": paddle.optimizer.Adam(rate, parameters=parameters, **options), "scheduler": rate}


def adamw(parameters: list[paddle.Tensor]) -> dict[str, Any]:
    rate = paddle.optimizer.lr.LinearWarmup(paddle.optimizer.lr.PolynomialDecay(0.05, 9), 3, 0.0, 0.05)
    clip = nn.ClipGradByGlobalNorm(1.0)
    return {"optimizer": paddle.optimizer.AdamW(rate, parameters=parameters, grad_clip=clip), "scheduler": rate}


def momentum(parameters: list[paddle.Tensor]) -> dict[str, Any]:
    rate = paddle.optimizer.lr.ReduceOnPlateau(0.05, patience=0)
    return {"optimizer": paddle.optimizer.Momentum(rate, parameters=parameters), "scheduler": rate}


def fixed_rate(parameters: list[paddle.Tensor]) -> dict[str, Any]:
    return {"optimizer": paddle.optimizer.Adam(0.05, parameters=parameters)}


OPTIMIZERS: dict[str, Make] = {
    "adam": adam,
    "amsgrad": lambda parameters: adam(parameters, amsgrad=True),
    "adamw": adamw,
    "momentum": momentum,
    "fixed rate": fixed_rate,
}


def run_of(make: Make = adamw) -> dict[str, Any]:
    """Everything anew, as a process that starts does; parameters' names count on."""
    net = Net()
    return {
        "model": net,
        **make(net.parameters()),
        "scaler": Scaler(),
        "rng": np.random.default_rng(5),
        "order": Order(),
    }


def train(parts: dict[str, Any], start: int, stop: int, set_to_zero: bool = True) -> None:
    net, optimizer, scaler, order = parts["model"], parts["optimizer"], parts["scaler"], parts["order"]
    for step in range(start, stop):
        x = paddle.to_tensor(parts["rng"].standard_normal((4, 6)).astype(np.float32))
        # The second branch is first reached behind the restore; then steps leave one of the two out.
        loss = net(x, int(step > 3 and step % 2)).square().mean()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.clear_grad(set_to_zero=set_to_zero)
        if isinstance(parts.get("scheduler"), paddle.optimizer.lr.ReduceOnPlateau):
            parts["scheduler"].step(loss)
        elif "scheduler" in parts:
            parts["scheduler"].step()
        else:
            optimizer.set_lr(0.05 / (step + 1))
        order.rows, order.seen[step] = parts["rng"].permutation(order.rows), (step, loss.detach())


def bits(state: Any) -> Any:
    """Something that is equal where every bit and type is."""
    if isinstance(state, paddle.Tensor):
        return "tensor", str(state.dtype), tuple(state.shape), state.numpy().tobytes()
    if isinstance(state, (np.ndarray, np.generic)):
        return type(state).__name__, state.dtype.str, state.shape, state.tobytes()
    if isinstance(state, dict):
        return {key: bits(value) for key, value in state.items()}
    if isinstance(state, (list, tuple)):
        return type(state).__name__, [bits(value) for value in state]
    return type(state).__name__, repr(state)


def all_bits(parts: dict[str, Any]) -> dict[str, Any]:
    found = {}
    for name, part in parts.items():
        state = part.bit_generator.state if name == "rng" else part.state_dict()
        if name == "optimizer":  # its keys are names that count from process start
            names = {parameter.name: key for key, parameter in parts["model"].state_dict().items()}
            state = {replaced(key, names): value for key, value in state.items()}
        found[name] = bits(state)
    found["gradients"] = {
        key: bits(parameter.grad) for key, parameter in parts["model"].named_parameters()
    }  # None is no zero
    found["rate"] = parts["optimizer"].get_lr()
    found["next"] = bits(paddle.rand([3]))
    return found


def replaced(key: str, names: dict[str, str]) -> str:
    owner = next((name for name in names if key.startswith(f"{name}_")), None)
    return key if owner is None else names[owner] + key.removeprefix(owner)


@pytest.mark.parametrize("set_to_zero", [True, False])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_resumed_run_has_the_bits_of_one_that_never_stopped(name: str, set_to_zero: bool, tmp_path: Path) -> None:
    make = OPTIMIZERS[name]
    whole = run_of(make)
    train(whole, 0, 3, set_to_zero)
    manager = CheckpointManager(tmp_path, recipe={"seed": 0})
    manager.save(3, whole)
    saved = all_bits(whole)
    resumed = run_of(make)
    assert resumed["model"].first.weight.name != whole["model"].first.weight.name
    paddle.seed(77)
    assert CheckpointManager(tmp_path, recipe={"seed": 0}).restore(resumed) == 3
    assert all_bits(resumed) == saved

    paddle.seed(8)
    train(whole, 3, 8, set_to_zero)
    expected = all_bits(whole)
    paddle.seed(8)
    train(resumed, 3, 8, set_to_zero)
    assert all_bits(resumed) == expected


def test_dropout_goes_on_where_it_was(tmp_path: Path) -> None:
    parts = {"model": nn.Linear(2, 2)}
    manager = CheckpointManager(tmp_path)
    paddle.randn([7])
    manager.save(1, parts)
    expected = [F.dropout(paddle.ones([40])).numpy().tobytes() for _ in range(3)]
    paddle.seed(123)
    manager.restore(parts)
    assert [F.dropout(paddle.ones([40])).numpy().tobytes() for _ in range(3)] == expected


def test_a_supernet_in_training_goes_on_with_the_same_bits(tmp_path: Path) -> None:
    def fresh() -> dict[str, Any]:
        paddle.seed(1)
        ofa = ofa_of(bert(dropout=0.1), bert(), mapping_layers=["bert.encoder.layers.0"], mapping_op="linear")
        projections = ofa.netAs_param
        optimizer = paddle.optimizer.AdamW(0.01, parameters=[*ofa.model.parameters(), *projections])
        return {"model": ofa.model, "projections": projections, "optimizer": optimizer, "subnets": ofa.rng, "ofa": ofa}

    def steps(run: dict[str, Any], start: int, stop: int) -> None:
        ofa = run["ofa"]
        ofa.train()
        for step in range(start, stop):
            ofa.set_net_config(dynabert_config(ofa, 0.5) if step % 3 == 0 else None)
            student, _ = ofa(*batch(seed=step))
            (F.cross_entropy(student, labels(seed=step)) + ofa.calc_distill_loss()).backward()
            run["optimizer"].step()
            run["optimizer"].clear_grad()

    def saved_parts(run: dict[str, Any]) -> dict[str, Any]:
        return {name: part for name, part in run.items() if name != "ofa"}

    whole = fresh()
    steps(whole, 0, 2)
    CheckpointManager(tmp_path).save(2, saved_parts(whole))
    steps(whole, 2, 5)
    resumed = fresh()
    CheckpointManager(tmp_path).restore(saved_parts(resumed))
    steps(resumed, 2, 5)
    for name in ("model", "projections"):
        first, second = (run[name] if name == "projections" else run[name].state_dict() for run in (whole, resumed))
        assert bits(list(first) if name == "projections" else first) == bits(
            list(second) if name == "projections" else second
        )


def test_master_weights_come_back_exactly(tmp_path: Path) -> None:
    def fresh() -> tuple[nn.Layer, Any]:
        layer = nn.Linear(3, 2)
        layer.to(dtype="bfloat16")
        return layer, paddle.optimizer.SGD(0.01, parameters=layer.parameters(), multi_precision=True)

    def step(layer: nn.Layer, optimizer: Any) -> None:
        for parameter in layer.parameters():
            parameter.grad = paddle.full_like(parameter, 0.3)
        optimizer.step()
        optimizer.clear_grad()

    layer, optimizer = fresh()
    step(layer, optimizer)
    CheckpointManager(tmp_path).save(1, {"model": layer, "optimizer": optimizer})
    other, its = fresh()
    CheckpointManager(tmp_path).restore({"model": other, "optimizer": its})
    for _ in range(3):
        step(layer, optimizer)
        step(other, its)
    assert other.weight.dtype == paddle.bfloat16
    assert bits(other.state_dict()) == bits(layer.state_dict())
    masters = [list(each.state_dict()["master_weights"].values()) for each in (optimizer, its)]
    assert [value.dtype for value in masters[0]] == [paddle.float32] * 2
    assert bits(masters[0]) == bits(masters[1])
    assert bits(masters[0][0].astype("bfloat16")) != bits(masters[0][0])


def test_names_of_accumulators_are_told_apart() -> None:
    weights = [paddle.create_parameter([1], "float32", name=name) for name in ("tested", "tested_7", "tested_7.w_0")]
    keys = ParameterKeys([TensorsPart("model", "layer", dict(zip("abc", weights, strict=True)))])
    for name, expected in (
        ("tested_moment1_0", ("model/a", "moment1")),
        ("tested_7_moment1_3", ("model/b", "moment1")),
        ("tested_7.w_0_beta1_pow_acc_0", ("model/c", "beta1_pow_acc")),
        ("tested_7.w_0_fp32_master_1_moment2_2", ("model/c", "moment2")),
        ("tested_7.w_0__avg_squared_grad_0", ("model/c", "_avg_squared_grad")),
    ):
        assert keys.split(name, "optimizer") == expected
    with pytest.raises(CheckpointError, match="parameter is in none of the parts"):
        keys.split("other_8.w_0_moment1_0", "optimizer")


def test_two_parameters_of_one_name_are_not_mixed_up(tmp_path: Path) -> None:
    layers = []
    for _ in range(2):
        with paddle.utils.unique_name.guard():
            layers.append(nn.Linear(2, 2))
    optimizer = paddle.optimizer.Adam(0.1, parameters=layers[0].parameters())
    layers[0](paddle.ones([1, 2])).sum().backward()
    optimizer.step()
    with pytest.raises(CheckpointError, match="a/weight and b/weight are two parameters of one name"):
        CheckpointManager(tmp_path).save(1, {"a": layers[0], "b": layers[1], "optimizer": optimizer})


class Holder:
    def __init__(self, state: Any = None) -> None:
        self.state = state

    def state_dict(self) -> Any:
        return self.state

    def load_state_dict(self, state: Any) -> None:
        self.state = state


TYPES = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool", "complex64")


def test_every_type_and_shape_comes_back_as_it_was(tmp_path: Path) -> None:
    state: Any = {
        "tensors": [
            paddle.arange(int(np.prod(shape)), dtype="float32").reshape(shape).astype(dtype)
            for dtype in TYPES
            for shape in ([], [1], [0, 3], [2, 3])
        ],
        "sliced": paddle.arange(12, dtype="float32").reshape([3, 4]).t()[1:],
        "arrays": [np.arange(6).reshape(2, 3).astype(kind) for kind in ("u2", "u4", "u8", "f2", "?", "c8")],
        "none": [np.zeros((0, 2)), np.array(7, np.uint64), np.float32(0.1), np.int64(-3), np.bool_(True)],
        "numbers": [0.1, -0.0, math.nan, math.inf, -math.inf, 1e-320, 2**200, True, None, "é\n", (1, (2.0,))],
        "odd keys": {1: "a", "1": "b", "$tensor": {"$float": 3}, "a/b": {"c": paddle.ones([1])}, "a": {"b/c": 2.0}},
        "a/b/c": paddle.zeros([1]),
        "a": {"b/c": paddle.ones([1])},
    }
    with np.errstate(all="ignore"):
        CheckpointManager(tmp_path).save(0, {"state": Holder(state)})
    restored = Holder()
    assert CheckpointManager(tmp_path).restore({"state": restored}) == 0
    assert bits(restored.state) == bits(state)


@pytest.mark.parametrize("kind", [np.random.PCG64, np.random.MT19937, np.random.Philox, np.random.SFC64])
def test_every_numpy_generator_goes_on(kind: Any, tmp_path: Path) -> None:
    generator, other = (np.random.Generator(kind(seed)) for seed in (1, 2))
    generator.integers(9, size=3, dtype=np.uint32)
    CheckpointManager(tmp_path).save(0, {"rng": generator})
    CheckpointManager(tmp_path).restore({"rng": other})
    assert bits(other.random(9)) == bits(generator.random(9))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (object(), "part 'state': the state's 'deep/0' is a object, which has no exact form without pickle"),
        (b"bytes", "'deep/0' is a bytes"),
        (np.array([object()]), "'deep/0' is a ndarray of object"),
        (np.zeros(2, ">f4"), "'deep/0' is a ndarray of >f4"),
        (paddle.zeros([2]).astype("complex128"), "'deep/0' is a Tensor of paddle.complex128"),
        ({3.5: 1}, "'deep/0' is a dict"),
    ],
)
def test_what_has_no_exact_form_is_named(value: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=message):
        CheckpointManager(tmp_path / "new").save(0, {"state": Holder({"deep": [value]})})
    assert not (tmp_path / "new").exists()


def test_a_layers_file_holds_its_weights_under_its_keys(tmp_path: Path) -> None:
    net = Net()
    saved = CheckpointManager(tmp_path).save(12, {"model": net})
    assert saved.path == tmp_path / "step-00000012"
    assert bits(load_file(str(saved.path / "model.safetensors"))) == bits(dict(sorted(net.state_dict().items())))
    assert {file.suffix for file in saved.path.iterdir()} == {".json", ".safetensors"}
    manifest = json.loads((saved.path / "manifest.json").read_text())
    assert manifest["step"] == 12
    assert set(manifest["files"]) == {file.name for file in saved.path.iterdir()} - {"manifest.json"}


def test_a_gradient_that_waits_is_kept(tmp_path: Path) -> None:
    def half_a_step(net: nn.Layer, seed: int) -> None:
        net(paddle.full([2, 6], float(seed)), 0).sum().backward()

    parts, other = run_of(), run_of()
    half_a_step(parts["model"], 1)
    CheckpointManager(tmp_path).save(0, parts)
    half_a_step(other["model"], 2)
    CheckpointManager(tmp_path).restore(other)
    assert all_bits(other)["gradients"] == all_bits(parts)["gradients"]
    assert other["model"].branches[1].weight.grad is None


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
    with pytest.raises(CheckpointError, match="holds step 3 already, and step 2 is not behind it: restore first"):
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
        (lambda path: CheckpointManager(path, keep=0), "keep is 0: a whole number of at least 1"),
        (lambda path: CheckpointManager(path).save(-1, {}), "step is -1: a whole number of at least 0"),
        (lambda path: CheckpointManager(path).save(True, {}), "step is True"),
        (lambda path: CheckpointManager(path).save(0, {"a/b": Holder()}), "'a/b' is no name of a part"),
        (lambda path: CheckpointManager(path).save(0, {"manifest": Holder()}), "'manifest' is no name of a part"),
        (lambda path: CheckpointManager(path).save(0, {"x": 3}), "part 'x' is a int; a part is a layer"),
        (lambda path: CheckpointManager(path).save(0, {"x": [1]}), "part 'x': '0' is a int, not a tensor"),
    ],
)
def test_values_that_cannot_mean_anything_are_refused(call: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=message):
        call(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_random_state_of_a_device_that_is_not_in_use_is_said(
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


@pytest.fixture
def _handlers() -> Any:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("_handlers")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_sets_a_flag_and_the_second_acts(number: signal.Signals) -> None:
    came = []
    signal.signal(number, lambda *seen: came.append(seen[0]))
    own = signal.getsignal(number)
    with stop_on_signals() as stop:
        assert not stop.requested
        os.kill(os.getpid(), number)
        assert stop.requested
        assert stop.signal == number
        assert came == []
        os.kill(os.getpid(), number)
        assert came == [number]
    assert signal.getsignal(number) is own


@pytest.mark.usefixtures("_handlers")
def test_handlers_are_back_behind_an_error_and_ignored_signals_stay_ignored() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.default_int_handler)

    def fails() -> None:
        with stop_on_signals() as stop:
            os.kill(os.getpid(), signal.SIGTERM)
            assert not stop.requested
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN


def test_outside_the_main_thread_nothing_is_handled() -> None:
    before = signal.getsignal(signal.SIGTERM)
    seen: list[Any] = []

    def work() -> None:
        with stop_on_signals() as stop:
            seen.extend([stop.requested, signal.getsignal(signal.SIGTERM)])

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False, before]
