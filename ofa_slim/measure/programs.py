"""Layers as programs of the engine that will serve them.

An engine makes a program of a layer and its inputs; running it is what is timed. `ENGINES` is the table of them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import nn
from paddle.static import InputSpec

from ofa_slim.base.modes import forwards_kept
from ofa_slim.base.nested import join, split
from ofa_slim.base.predictor import Predictor
from ofa_slim.errors import ExportError, LatencyError
from ofa_slim.export.formats.onnx import ONNX_FILE, open_session, write_onnx

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
    with _saved(called, "inference") as folder:
        predictor = Predictor(folder, onednn=True)
    values = _values(called)
    predictor.feed({name: values[name] for name in predictor.names})
    return predictor.run


def onnx_runtime(called: Called) -> Run:
    """A session of ONNX Runtime, on as many threads as Paddle was told to use."""
    with _saved(called, "onnx") as folder:
        try:
            write_onnx(folder, folder / ONNX_FILE)
        except ExportError as error:
            raise LatencyError(f"engine 'onnx': {error}") from error
        session = open_session(folder / ONNX_FILE)
    values = _values(called)
    given = {wanted.name: values[wanted.name] for wanted in session.get_inputs()}

    def run() -> None:
        session.run(None, given)

    return run


@contextmanager
def _saved(called: Called, engine: str) -> Iterator[Path]:
    """The files of a layer for Paddle Inference, in a folder that goes away."""
    device = paddle.device.get_device()
    if device != "cpu":
        raise LatencyError(f"engine {engine!r} is timed on the CPU, and Paddle was told to use {device}")
    specs = [InputSpec(list(one.shape), one.dtype, name=f"x{number}") for number, one in enumerate(called.tensors)]
    with tempfile.TemporaryDirectory() as folder:
        with forwards_kept(called.layer):
            program = paddle.jit.to_static(called.layer, input_spec=[specs], full_graph=True)
            paddle.jit.save(program, str(Path(folder) / "model"))
        yield Path(folder)


def _values(called: Called) -> dict[str, Any]:
    return {f"x{number}": np.ascontiguousarray(tensor.numpy()) for number, tensor in enumerate(called.tensors)}


Make = Callable[[Called], Run]

ENGINES: dict[str, Make] = {"inference": paddle_inference, "onnx": onnx_runtime}


def version_of(engine: str) -> str:
    """The versions that an engine's times hold for."""
    found = str(paddle.version.full_version)
    return f"{found} with ONNX Runtime {metadata.version('onnxruntime')}" if engine == "onnx" else found


def engine_of(name: str) -> Make:
    """The engine of a name; raises `LatencyError` where there is none."""
    if name not in ENGINES:
        raise LatencyError(f"engine {name!r} is not one of {', '.join(ENGINES)}")
    return ENGINES[name]
