"""Paddle Inference programs: run again and again, they give the same and leave their inputs alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import paddle
import pytest

from models import batch, bert
from ofa_slim import to_static
from ofa_slim.base.predictor import Predictor


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
