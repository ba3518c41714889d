"""Layers as programs of the engine that will serve them.

An engine makes a program of a layer and its inputs; running it is what is timed. `ENGINES` is the table of them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import nn
from paddle.static import InputSpec

from ofa_slim.errors import LatencyError
from ofa_slim.predictor import Predictor
from ofa_slim.probes import forwards_kept
from ofa_slim.trees import join, split

Run = Callable[[], None]


class Called:
    """A layer and the arguments that it is called with.

    Args:
        layer: any layer.
        args: of its call; the tensors among them are the inputs of a program.
        kwargs: the same by name.

    Attributes:
        layer: called with a list of tensors.
        tensors: that list.
    """

    def __init__(self, layer: nn.Layer, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        self.tensors, nesting = split((list(args), dict(kwargs)))
        self.layer = _Nested(layer, nesting)


class _Nested(nn.Layer):
    """A layer with the tensors among its arguments as a list."""

    def __init__(self, layer: nn.Layer, nesting: Any) -> None:
        super().__init__()
        self.inner = layer
        self.nesting = nesting
        self.eval()

    def forward(self, tensors: list[paddle.Tensor]) -> Any:
        """The layer's output."""
        args, kwargs = join(self.nesting, tensors)
        return self.inner(*args, **kwargs)


def paddle_inference(called: Called) -> Run:
    """A program of Paddle Inference with oneDNN, on as many threads as Paddle was told to use."""
    device = paddle.device.get_device()
    if device != "cpu":
        raise LatencyError(f"engine 'inference' is timed on the CPU, and Paddle was told to use {device}")
    tensors = called.tensors
    specs = [InputSpec(list(tensor.shape), tensor.dtype, name=f"x{number}") for number, tensor in enumerate(tensors)]
    with tempfile.TemporaryDirectory() as folder, forwards_kept(called.layer):
        program = paddle.jit.to_static(called.layer, input_spec=[specs], full_graph=True)
        paddle.jit.save(program, str(Path(folder) / "model"))
        predictor = Predictor(Path(folder), onednn=True)
    values: dict[str, np.ndarray | paddle.Tensor] = {
        f"x{number}": np.ascontiguousarray(tensor.numpy()) for number, tensor in enumerate(tensors)
    }
    predictor.feed({name: values[name] for name in predictor.names})
    return predictor.run


Make = Callable[[Called], Run]

ENGINES: dict[str, Make] = {"inference": paddle_inference}


def engine_of(name: str) -> Make:
    """The engine of a name; raises `LatencyError` where there is none."""
    if name not in ENGINES:
        raise LatencyError(f"engine {name!r} is not one of {', '.join(ENGINES)}")
    return ENGINES[name]
