"""ONNX models from Paddle Inference files, in the form that ONNX Runtime's tools expect."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ofa_slim.base.predictor import MODEL_FILE, PARAMS_FILE
from ofa_slim.errors import ExportError
from ofa_slim.export.formats.gelu import approximate_gelus
from ofa_slim.export.formats.needs import needed

ONNX_FILE = "model.onnx"
OPSET = 17  # the first that has layer norm as one operator

logger = logging.getLogger(__name__)


def write_onnx(inference: Path, file: Path) -> None:
    """Converts Paddle Inference files.

    Weights become initializers (paddle2onnx writes them as ``Constant`` nodes, which the quantiser does not see), and
    the unknown dimensions of the inputs are called ``batch``, ``length`` and so on.

    Args:
        inference: the folder with ``model.json`` and ``model.pdiparams``.
        file: of the ONNX model.

    Raises: ExportError for an operator that paddle2onnx does not support, with its message.
    """
    onnx = needed("onnx")
    converted = _converted(inference)
    model = onnx.load_model_from_string(converted)
    weights_out_of_nodes(model)
    approximate_gelus(model, inference)
    _name_dimensions(model)
    onnx.checker.check_model(model)
    onnx.save(model, str(file))


def _converted(inference: Path) -> bytes:
    paddle2onnx = needed("paddle2onnx")
    with tempfile.TemporaryDirectory() as name:
        target = Path(name) / ONNX_FILE
        with _captured() as said:
            try:
                # Its own optimisers would install packages while they run.
                paddle2onnx.export(
                    str(inference / MODEL_FILE), str(inference / PARAMS_FILE), str(target), opset_version=OPSET,
                    verbose=False, enable_onnx_checker=True, optimize_tool="none",
                )  # fmt: skip
            except Exception as error:  # it goes on where the conversion failed, and stumbles
                raise ExportError(f"paddle2onnx cannot convert the model: {_reason(said(), error)}") from error
        if not target.is_file() or not target.stat().st_size:
            raise ExportError(f"paddle2onnx cannot convert the model: {_reason(said(), None)}")
        return target.read_bytes()


def weights_out_of_nodes(model: Any) -> None:
    """Turns ``Constant`` nodes, and the ``Identity`` of one, into initializers; drops those that nothing reads."""
    graph = model.graph
    constants: dict[str, Any] = {tensor.name: tensor for tensor in graph.initializer}
    alias: dict[str, str] = {}
    outputs = {output.name for output in graph.output}
    kept = []
    for node in graph.node:
        value = next((each for each in node.attribute if each.name == "value"), None)
        if node.op_type == "Constant" and value is not None:
            tensor = value.t
            tensor.name = node.output[0]
            constants[tensor.name] = tensor
            graph.initializer.append(tensor)
            continue
        names = [alias.get(name, name) for name in node.input]
        del node.input[:]
        node.input.extend(names)
        if node.op_type == "Identity" and names[0] in constants and node.output[0] not in outputs:
            alias[node.output[0]] = names[0]
            continue
        kept.append(node)
    del graph.node[:]
    graph.node.extend(kept)
    used = outputs.union(*(node.input for node in kept))
    weights = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(weights)


def _name_dimensions(model: Any) -> None:
    """Gives unknown dimensions of different inputs the same names; those of outputs get names of their own."""
    for value in model.graph.input:
        for place, dimension in enumerate(value.type.tensor_type.shape.dim):
            if dimension.dim_param or dimension.dim_value <= 0:
                dimension.dim_param = ("batch", "length")[place] if place < 2 else f"size{place}"
    for value in model.graph.output:
        for place, dimension in enumerate(value.type.tensor_type.shape.dim):
            if dimension.dim_param or dimension.dim_value <= 0:
                dimension.dim_param = "batch" if place == 0 else f"{value.name}{place}"


def _reason(said: str, error: Exception | None) -> str:
    """The most informative line of a conversion's output."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    telling = [line for line in lines if "rror" in line or "not support" in line]
    return (telling or lines or [str(error)])[0]


@contextlib.contextmanager
def _captured() -> Iterator[Any]:
    """Captures what Python and compiled code print; yields a function that returns it."""
    text = ""
    sys.stdout.flush()
    sys.stderr.flush()
    old = [os.dup(1), os.dup(2)]
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        words = io.StringIO()
        try:
            with contextlib.redirect_stdout(words), contextlib.redirect_stderr(words):
                yield lambda: text or _read(file, words)
        finally:
            for number, kept in enumerate(old, start=1):
                os.dup2(kept, number)
                os.close(kept)
            text = _read(file, words)


def _read(file: Any, words: io.StringIO) -> str:
    file.seek(0)
    return words.getvalue() + str(file.read().decode("utf-8", "replace"))
