"""Layers as programs of the engine that will serve them.

An engine makes a program of a layer and one call of it; running it is what is timed. `ENGINES` is the table of them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import nn
from paddle.static import InputSpec

from ofa_slim.base.examples import Example
from ofa_slim.base.modes import forwards_kept
from ofa_slim.base.nested import join, split
from ofa_slim.base.predictor import Predictor
from ofa_slim.base.threads import threads
from ofa_slim.errors import ExportError, LatencyError
from ofa_slim.export.formats.onnx import ONNX_FILE, write_onnx
from ofa_slim.export.formats.reader import open_session

Program = Callable[[], None]
OpenProgram = Callable[[nn.Layer, Example], Program]


class OfTensors(nn.Layer):
    """A layer that is called with the tensors among its arguments as a list; the others are as in the example."""

    def __init__(self, layer: nn.Layer, example: Example) -> None:
        super().__init__()
        self.inner = layer
        self.tensors, self.nesting = split((list(example.args), dict(example.kwargs)))
        self.eval()

    def forward(self, tensors: Sequence[paddle.Tensor]) -> Any:
        """The layer's output."""
        args, kwargs = join(self.nesting, tensors)
        return self.inner(*args, **kwargs)


def paddle_inference(layer: nn.Layer, example: Example) -> Program:
    """A program of Paddle Inference with oneDNN, on as many threads as Paddle was told to use."""
    with _saved(layer, example, "inference") as (folder, inputs):
        predictor = Predictor(folder, onednn=True)
    predictor.feed({name: inputs[name] for name in predictor.names})
    return predictor.run


def onnx_runtime(layer: nn.Layer, example: Example) -> Program:
    """A session of ONNX Runtime, on as many threads as Paddle was told to use."""
    with _saved(layer, example, "onnx") as (folder, inputs):
        try:
            write_onnx(folder, folder / ONNX_FILE)
        except ExportError as error:
            raise LatencyError(f"engine 'onnx': {error}") from error
        session = open_session(folder / ONNX_FILE, threads())
    needed = {wanted.name: inputs[wanted.name] for wanted in session.get_inputs()}

    def run() -> None:
        session.run(None, needed)

    return run


@contextmanager
def _saved(layer: nn.Layer, example: Example, engine: str) -> Iterator[tuple[Path, dict[str, np.ndarray]]]:
    """The files of a layer for Paddle Inference, in a folder that goes away, and its inputs by name."""
    device = paddle.device.get_device()
    if device != "cpu":
        raise LatencyError(f"engine {engine!r} is timed on the CPU, and Paddle was told to use {device}")
    called = OfTensors(layer, example)
    specs = [InputSpec(list(one.shape), one.dtype, name=f"x{number}") for number, one in enumerate(called.tensors)]
    with tempfile.TemporaryDirectory() as folder:
        with forwards_kept(called):
            program = paddle.jit.to_static(called, input_spec=[specs], full_graph=True)
            paddle.jit.save(program, str(Path(folder) / "model"))
        arrays = {f"x{number}": np.ascontiguousarray(tensor.numpy()) for number, tensor in enumerate(called.tensors)}
        yield Path(folder), arrays


ENGINES: dict[str, OpenProgram] = {"inference": paddle_inference, "onnx": onnx_runtime}


def version_of(engine: str) -> str:
    """The versions that an engine's times hold for."""
    paddles = str(paddle.version.full_version)
    return f"{paddles} with ONNX Runtime {metadata.version('onnxruntime')}" if engine == "onnx" else paddles


def engine_of(name: str) -> OpenProgram:
    """The engine of a name; raises `LatencyError` where there is none."""
    if name not in ENGINES:
        raise LatencyError(f"engine {name!r} is not one of {', '.join(ENGINES)}")
    return ENGINES[name]
