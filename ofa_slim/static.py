"""`to_static`: a plain model as Paddle Inference files."""

from __future__ import annotations

import inspect
import os
from collections.abc import Sequence
from pathlib import Path

import paddle
from paddle import nn
from paddle.static import InputSpec

from ofa_slim.errors import ExportError
from ofa_slim.predictor import MODEL_FILE, Predictor
from ofa_slim.probes import compare, eval_mode, forwards_kept, make_probe
from ofa_slim.storage import replacing
from ofa_slim.supernet.layers import ElasticLayer

_NAMED = ("input_ids", "token_type_ids")


def to_static(
    model: nn.Layer, directory: str | os.PathLike[str], input_spec: Sequence[InputSpec] | None = None
) -> None:
    """Writes a model for Paddle Inference: ``model.json`` and ``model.pdiparams``.

    The files are written aside, run by Paddle Inference at two shapes, compared with the model and only
    then put in place. The model itself is left as it is.

    Args:
        model: a plain model; a supernet is cut by `OFA.export` first.
        directory: where to; it must be new, empty, or an earlier save, which is replaced.
        input_spec: a named spec per input of the model's forward, unknown dimensions None. By default
            ``input_ids`` and ``token_type_ids``, int64 ``[batch, length]``, as far as the forward takes them.

    Raises: ExportError for a supernet, a model whose inputs cannot be told, or files that do not compute
        what the model does; nothing is left behind then.
    """
    if any(isinstance(layer, ElasticLayer) for layer in model.sublayers(include_self=True)):
        raise ExportError("to_static needs a plain model; cut one out of the supernet with OFA.export first")
    specs = _default_spec(model) if input_spec is None else list(input_spec)
    names = [spec.name for spec in specs if spec.name is not None]
    if len(set(names)) != len(specs):
        raise ExportError(f"input_spec: every input needs a name of its own, got {[spec.name for spec in specs]}")
    with replacing(directory, marker=MODEL_FILE) as aside, eval_mode(model):
        with forwards_kept(model):
            program = paddle.jit.to_static(_ByName(model, names), input_spec=[specs], full_graph=True)
            paddle.jit.save(program, str(aside / "model"))
        _check(model, specs, aside)


class _ByName(nn.Layer):
    """Calls a model with its inputs by name, so that the order of the files' inputs is ours."""

    def __init__(self, model: nn.Layer, names: list[str]) -> None:
        super().__init__()
        self.model = model
        self.names = names
        self.eval()

    def forward(self, inputs: list[paddle.Tensor]) -> paddle.Tensor:
        """The model's output."""
        return self.model(**dict(zip(self.names, inputs)))  # noqa: B905  Paddle's translation of zip takes no strict


def _default_spec(model: nn.Layer) -> list[InputSpec]:
    parameters = inspect.signature(model.forward).parameters
    specs = [InputSpec([None, None], "int64", name=name) for name in _NAMED if name in parameters]
    if not specs:
        raise ExportError(
            f"the inputs of {type(model).__name__} cannot be told from its forward; give input_spec=[InputSpec(...)]"
        )
    return specs


def _check(model: nn.Layer, specs: Sequence[InputSpec], folder: Path) -> None:
    predictor = Predictor(folder)
    for seed, unknown in enumerate(((2, 16), (3, 7))):
        shapes = {spec.name: _filled(spec.shape, unknown) for spec in specs}
        dtypes = {spec.name: spec.dtype for spec in specs}
        probe = make_probe(model, [shapes], [dtypes], seed=seed)
        found = predictor({name: value.numpy() for name, value in probe.kwargs.items()})
        compare(probe.run(model), [paddle.to_tensor(value) for value in found], "to_static")


def _filled(shape: Sequence[int | None], unknown: Sequence[int]) -> list[int]:
    fill = iter([*unknown, *[2] * len(shape)])
    return [next(fill) if size is None or size < 0 else size for size in shape]
