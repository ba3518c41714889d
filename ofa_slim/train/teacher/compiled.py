"""A frozen teacher as a program: a static graph over its own parameters, or a copy of it in Paddle Inference."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import nn
from paddle.static import InputSpec
from paddle.utils.dlpack import from_dlpack

from ofa_slim.base.modes import forwards_kept
from ofa_slim.base.nested import Place, join, split, unsupported_leaf
from ofa_slim.base.predictor import Predictor
from ofa_slim.base.quiet import quiet_translation
from ofa_slim.base.taps import Taps
from ofa_slim.errors import OfaSlimError
from ofa_slim.train.teacher.answer import Answer, Fingerprint

_LARGE_TABLE = 1 << 20  # numbers
_TOKENS = 512  # per run in Paddle Inference: 90 MiB less than 2,048 for MiniLM's size, at 1.04 of their time


class _Flat(nn.Layer):
    """A model with its inputs and outputs as flat lists of tensors, as programs have them.

    Attributes:
        inputs: the nesting of the inputs.
        given: the inputs of the call that is being traced; the nesting may leave some out.
        hidden: the mapped layers' outputs, recorded while the model is traced.
        outputs: after tracing, the nesting of the output and of `hidden`.
        touching: whether to add an output that depends on every input; Paddle does not save inputs that nothing uses.
    """

    def __init__(self, model: nn.Layer, inputs: Any, touching: bool = False) -> None:
        super().__init__()
        self.model = model
        self.inputs = inputs
        self.given: list[paddle.Tensor] = []
        self.hidden: dict[str, paddle.Tensor] = {}
        self.outputs: Any = None
        self.touching = touching
        self.eval()

    def forward(self, tensors: list[paddle.Tensor]) -> list[paddle.Tensor]:
        """The tensors of the answer."""
        args, kwargs = self._arguments(tensors)
        return self._flattened(self.model(*args, **kwargs))

    @paddle.jit.not_to_static
    def _arguments(self, tensors: list[paddle.Tensor]) -> Any:
        self.given = tensors
        return join(self.inputs, tensors)

    @paddle.jit.not_to_static
    def _flattened(self, output: Any) -> list[paddle.Tensor]:
        found, nesting = split((output, dict(self.hidden)))
        # A program returns each value once, even if two layers return the same one.
        once = {id(tensor): tensor for tensor in found}
        number = {key: number for number, key in enumerate(once)}
        self.outputs = join(nesting, [Place(number[id(tensor)]) for tensor in found])
        touched = [paddle.concat([one.reshape([-1])[:1].astype("float32") for one in self.given])] * self.touching
        return [*once.values(), *touched]


class StaticProgram:
    """A static graph over the model's own parameters, for one kind of inputs.

    Args:
        model: the model.
        taps: the layers whose outputs are part of the answer.
        inputs: the nesting of its inputs.
        specs: a spec for each tensor in the inputs.
    """

    _touching = False

    def __init__(self, model: nn.Layer, taps: Taps, inputs: Any, specs: Sequence[InputSpec]) -> None:
        self._flat = _Flat(model, inputs, self._touching)
        self._taps = taps
        self._traced = paddle.jit.to_static(self._flat, input_spec=[list(specs)], full_graph=True)

    def __call__(self, tensors: list[paddle.Tensor], state: Fingerprint) -> Answer:
        """The answer to the tensors of a batch."""
        found = self._run(tensors, state)
        check_plain(self._flat.outputs, "its output")
        return Answer(*join(self._flat.outputs, found))

    def _run(self, tensors: list[paddle.Tensor], state: Fingerprint) -> list[paddle.Tensor]:
        with self._tapped():
            return list(self._traced(tensors))

    @contextmanager
    def _tapped(self) -> Iterator[None]:
        """Surrounds every call that may trace the model; Paddle decides when it does."""
        with forwards_kept(self._flat.model), self._taps.record() as self._flat.hidden:
            yield
        self._flat.hidden = {}


class InferenceProgram(StaticProgram):
    """A program in Paddle Inference with oneDNN, on the CPU; it has a copy of the weights, renewed when they change.

    Paddle Inference keeps the memory of its largest run, so token ids are fed a few rows at a time. Large embedding
    tables are not copied: their rows are looked up first and fed as inputs of their own.
    """

    _touching = True

    def __init__(self, model: nn.Layer, taps: Taps, inputs: Any, specs: Sequence[InputSpec]) -> None:
        all_ids = bool(specs) and all(len(spec.shape) == 2 and "int" in str(spec.dtype) for spec in specs)
        layers = _large_tables(model) if all_ids else []
        tables = [_LookUp(layer, len(specs) + number) for number, layer in enumerate(layers)]
        super().__init__(model, taps, inputs, [*specs, *(table.spec for table in tables)])
        self._tables = {table.number: table for table in tables}
        self._predictor: Predictor | None = None
        self._state: paddle.Tensor | None = None
        self._whole = False

    def _run(self, tensors: list[paddle.Tensor], state: Fingerprint) -> list[paddle.Tensor]:
        now = state()
        if self._predictor is None or self._state is None or not bool(paddle.equal_all(now, self._state)):
            self._predictor, self._state = self._opened(), now
        pieces = [slice(None)] if self._whole else _pieces(tensors)
        first = self._answered(self._predictor, tensors, pieces[0])
        if len(pieces) > 1 and any(value.shape[:1] != (pieces[0].stop,) for value in first):
            self._whole, pieces = True, [slice(None)]  # an output without the rows of its inputs
            first = self._answered(self._predictor, tensors, pieces[0])
        outputs = first
        if len(pieces) > 1:
            outputs = [np.empty((len(tensors[0]), *value.shape[1:]), value.dtype) for value in first]
            for number, piece in enumerate(pieces):
                values = self._answered(self._predictor, tensors, piece) if number else first
                for whole, value in zip(outputs, values, strict=True):
                    whole[piece] = value
        return [from_dlpack(value.__dlpack__()) for value in outputs]

    def _opened(self) -> Predictor:
        with tempfile.TemporaryDirectory() as folder, self._tapped(), quiet_translation(), ExitStack() as hooks:
            for table in self._tables.values():
                hooks.callback(table.layer.register_forward_post_hook(table.stand_in(self._flat)).remove)
            paddle.jit.save(self._traced, str(Path(folder) / "model"))
            return Predictor(Path(folder), onednn=True)

    def _answered(self, predictor: Predictor, tensors: Sequence[paddle.Tensor], rows: slice) -> list[np.ndarray]:
        """The outputs for some rows of the inputs."""
        parts = list(tensors) if rows == slice(None) else [tensor[rows] for tensor in tensors]
        inputs = {}
        for name in predictor.names:
            table = self._tables.get(_number(name))
            inputs[name] = parts[_number(name)] if table is None else table(parts)
        return predictor(inputs)[:-1]


class _LookUp:
    """An embedding table outside a program.

    Args:
        layer: the embedding.
        number: the number of the program's input that takes the embedded ids.

    Attributes:
        source: the number of the input that contains the ids; None until tracing has found it.
    """

    def __init__(self, layer: nn.Embedding, number: int) -> None:
        self.layer = layer
        self.number = number
        self.source: int | None = None

    def __call__(self, inputs: Sequence[paddle.Tensor]) -> paddle.Tensor:
        """The embedded ids, [rows, length, features]; zeros that nothing reads if no input is embedded."""
        if self.source is None:
            return paddle.zeros([1, 1, self.layer.weight.shape[1]], self.layer.weight.dtype)
        return self.layer(inputs[self.source])

    @property
    def spec(self) -> InputSpec:
        """The spec of the input that takes the embedded ids."""
        return InputSpec([None, None, self.layer.weight.shape[1]], self.layer.weight.dtype, name=f"x{self.number}")

    def stand_in(self, flat: _Flat) -> Callable[[nn.Layer, Any, paddle.Tensor], paddle.Tensor]:
        """A hook that returns the input in place of the layer's output for one of the other inputs."""

        def hook(layer: nn.Layer, called_with: Any, output: paddle.Tensor) -> paddle.Tensor:
            for source, given in enumerate(flat.given):
                if called_with[0] is given and self.source in (None, source):
                    self.source = source
                    return flat.given[self.number]
            return output

        return hook


def _large_tables(model: nn.Layer) -> list[nn.Embedding]:
    layers = model.sublayers(include_self=True)
    return [layer for layer in layers if type(layer) is nn.Embedding and layer.weight.size >= _LARGE_TABLE]


def input_spec(tensor: paddle.Tensor, number: int) -> InputSpec:
    """The spec of an input: token ids of any shape, images of any batch size."""
    shape = list(tensor.shape)
    free = min(1, len(shape)) if tensor.is_floating_point() else len(shape)
    return InputSpec([*[None] * free, *shape[free:]], tensor.dtype, name=f"x{number}")


def _pieces(tensors: Sequence[paddle.Tensor]) -> list[slice]:
    """The rows to feed at a time: all, unless all inputs are token ids of one shape."""
    shapes = {tuple(tensor.shape) for tensor in tensors}
    if len(shapes) != 1 or any(tensor.is_floating_point() or tensor.ndim != 2 for tensor in tensors):
        return [slice(None)]
    ((rows, length),) = shapes
    step = max(1, _TOKENS // max(1, length))
    return [slice(start, min(start + step, rows)) for start in range(0, rows, step)] or [slice(None)]


def _number(name: str) -> int:
    return int(name[1:])


def check_plain(nesting: Any, what: str) -> None:
    """Raises OfaSlimError where a nesting may hide tensors."""
    kind = unsupported_leaf(nesting)
    if kind is not None:
        raise OfaSlimError(f"{what} holds a {kind}")
