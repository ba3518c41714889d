"""A run that is saved and restored goes on with the same bits."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from paddle import nn
from paddle.nn import functional as F
from safetensors.paddle import load_file

from checkpoint_runs import OPTIMIZERS, Holder, Net, all_bits, bits, run_of, train
from models import batch, bert, labels, ofa_of
from ofa_slim import CheckpointManager, dynabert_config
from ofa_slim.errors import CheckpointError
from ofa_slim.train.checkpoint.optimizers import ParameterKeys
from ofa_slim.train.checkpoint.parts import TensorsPart


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
