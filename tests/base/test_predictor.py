"""Paddle Inference programs: run again and again, they give the same and leave their inputs alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import paddle
import pytest

from models import batch, bert
from ofa_slim import to_static
from ofa_slim.base.predictor import Predictor
from ofa_slim.export.formats.predict import open_inference


@pytest.mark.parametrize("onednn", [False, True])
@pytest.mark.parametrize("shared", [False, True])
def test_running_again_gives_the_same_and_leaves_the_inputs(onednn: bool, shared: bool, tmp_path: Path) -> None:
    model = bert()
    to_static(model, tmp_path / "model")
    predictor = Predictor(tmp_path / "model", onednn=onednn)
    tensors = dict(zip(("input_ids", "token_type_ids"), batch(4, 9), strict=True))
    inputs = tensors if shared else {name: tensor.numpy() for name, tensor in tensors.items()}
    before = {name: tensor.numpy().copy() for name, tensor in tensors.items()}
    (first,) = predictor(inputs)
    for _ in range(3):
        predictor.run()  # with the inputs that it has
    assert np.array_equal(predictor(inputs)[0], first)
    assert all(np.array_equal(tensor.numpy(), before[name]) for name, tensor in tensors.items())
    with paddle.no_grad():
        assert np.allclose(model(*tensors.values()).numpy(), first, atol=1e-5)


class Recorded:
    """Stands in for Paddle's configuration and predictor: keeps what is called on it."""

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []

    def __getattr__(self, name: str) -> object:
        return lambda *given: self.calls.append((name, *given)) or []

    @property
    def names(self) -> list[object]:
        return [name for name, *_ in self.calls]


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Recorded:
    found = Recorded()
    monkeypatch.setattr(paddle.inference, "Config", lambda *files: found)
    monkeypatch.setattr(paddle.inference, "create_predictor", lambda config: found)
    monkeypatch.setattr(paddle.device, "synchronize", lambda device: found.calls.append(("synchronize", device)))
    return found


@pytest.mark.parametrize("reader", [False, True])
def test_models_run_where_paddle_does(
    reader: bool, recorded: Recorded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paddle.device, "get_device", lambda: "gpu:1")
    _ = open_inference(tmp_path, 2) if reader else Predictor(tmp_path, onednn=True)
    assert ("enable_use_gpu", 100, 1) in recorded.calls
    assert not {"disable_gpu", "enable_mkldnn"} & set(recorded.names)


def test_a_run_on_a_gpu_ends_before_it_returns(recorded: Recorded, tmp_path: Path) -> None:
    Predictor(tmp_path, device="gpu:0").run()
    assert recorded.names.index("synchronize") > recorded.names.index("run")
    recorded.calls.clear()
    Predictor(tmp_path, onednn=True, device="cpu").run()
    assert {"disable_gpu", "enable_mkldnn"} <= set(recorded.names)
    assert "synchronize" not in recorded.names
