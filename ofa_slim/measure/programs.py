"""Layers as programs of the engine that will serve them.

An engine writes the program of a layer and one call of it, once, as tracing takes longest, and opens it anew for each
load; running it is what is timed. `ENGINES` is the table of them.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Callable, Sequence
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
from ofa_slim.base.quiet import quiet_translation
from ofa_slim.base.threads import threads
from ofa_slim.errors import ExportError, LatencyError
from ofa_slim.export.formats.int8 import quantise_dynamic
from ofa_slim.export.formats.onnx import ONNX_FILE, write_onnx
from ofa_slim.export.formats.predict import open_session

Program = Callable[[], None]
OpenProgram = Callable[[], Program]
SaveProgram = Callable[[nn.Layer, Example], OpenProgram]
"""Writes the program of a layer and one call of it; the answer opens it from its files, as often as it is called."""


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


class _Files:
    """The files of a layer for Paddle Inference, in a folder that goes away with this object.

    Args:
        layer: in the state in which it is written.
        example: its call.

    Attributes:
        folder: holds the files.
        inputs: the arrays of the call, by the program's names.
    """

    def __init__(self, layer: nn.Layer, example: Example) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="ofa_slim-"))
        weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)
        called = OfTensors(layer, example)
        specs = [InputSpec(list(one.shape), one.dtype, name=f"x{number}") for number, one in enumerate(called.tensors)]
        with forwards_kept(called), quiet_translation():
            program = paddle.jit.to_static(called, input_spec=[specs], full_graph=True)
            # A block whose attention is left out does not read its mask.
            paddle.jit.save(program, str(self.folder / "model"), skip_prune_program=True)
        self.inputs = {
            f"x{number}": np.ascontiguousarray(tensor.numpy()) for number, tensor in enumerate(called.tensors)
        }


def paddle_inference(layer: nn.Layer, example: Example) -> OpenProgram:
    """A program of Paddle Inference on Paddle's device; on a CPU with oneDNN and as many threads as Paddle uses."""
    files = _Files(layer, example)

    def open_program() -> Program:
        predictor = Predictor(files.folder, onednn=True)
        predictor.feed({name: files.inputs[name] for name in predictor.names})
        return predictor.run

    return open_program


def onnx_runtime(layer: nn.Layer, example: Example) -> OpenProgram:
    """A session of ONNX Runtime on the CPU, on as many threads as Paddle uses.

    Raises: LatencyError where Paddle was told to use another device, or paddle2onnx does not convert the layer.
    """
    return _onnx("onnx", layer, example)


def onnx_int8(layer: nn.Layer, example: Example) -> OpenProgram:
    """The same in 8 bits, as the format ``onnx-int8`` is written: after ONNX Runtime's fusions where these suit."""
    return _onnx("onnx-int8", layer, example)


def _onnx(engine: str, layer: nn.Layer, example: Example) -> OpenProgram:
    device = paddle.device.get_device()
    if device != "cpu":
        raise LatencyError(f"engine {engine!r} is timed on the CPU, and Paddle was told to use {device}")
    files = _Files(layer, example)
    file = files.folder / ONNX_FILE
    try:
        write_onnx(files.folder, file)
    except ExportError as error:
        raise LatencyError(f"engine {engine!r}: {error}") from error
    needed = {wanted.name: files.inputs[wanted.name] for wanted in open_session(file, threads()).get_inputs()}
    name = ONNX_FILE
    if engine == "onnx-int8":
        name = "int8.onnx"
        quantise_dynamic(file, files.folder / name, [needed])

    def open_program() -> Program:
        # Its threads would spin for 55 ms after each run, while the next program has its turn.
        session = open_session(files.folder / name, threads(), rests=True)

        def run() -> None:
            session.run(None, needed)

        return run

    return open_program


def written_once(save: Callable[[], OpenProgram]) -> OpenProgram:
    """Opens a program that is written the first time it is opened."""
    opens: list[OpenProgram] = []

    def open_program() -> Program:
        if not opens:
            opens.append(save())
        return opens[0]()

    return open_program


ENGINES: dict[str, SaveProgram] = {"inference": paddle_inference, "onnx": onnx_runtime, "onnx-int8": onnx_int8}


def version_of(engine: str) -> str:
    """The versions that an engine's times hold for."""
    paddles = str(paddle.version.full_version)
    return f"{paddles} with ONNX Runtime {metadata.version('onnxruntime')}" if engine != "inference" else paddles


def engine_of(name: str) -> SaveProgram:
    """The engine of a name; raises `LatencyError` where there is none."""
    if name not in ENGINES:
        raise LatencyError(f"engine {name!r} is not one of {', '.join(ENGINES)}")
    return ENGINES[name]
