"""How a teacher computes its answers: layer by layer, as a static graph, or in Paddle Inference.

A frozen model needs no autograd, so its forward can be a program. On two CPU cores a static graph took 0.6 of the
layer-by-layer time of MiniLM, Paddle Inference with oneDNN less than half. Programs are made per kind of input
and compared with the layer-by-layer answer at the first two shapes that they meet.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import nn
from paddle.static import InputSpec
from paddle.utils.dlpack import from_dlpack

from ofa_slim.base.examples import compare
from ofa_slim.base.modes import forwards_kept
from ofa_slim.base.nested import Place, join, split, unsupported_leaf
from ofa_slim.base.predictor import Predictor
from ofa_slim.base.taps import Taps
from ofa_slim.errors import ConfigError, OfaSlimError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Answer:
    """What a teacher says about a batch; no gradient flows into it.

    Attributes:
        output: the model's output.
        hidden: the tapped outputs by name.
        masks: for those among them that are not known everywhere: bool [batch, length], where they are.
    """

    output: Any
    hidden: dict[str, paddle.Tensor]
    masks: Mapping[str, paddle.Tensor] = field(default_factory=dict)

    @property
    def tensors(self) -> list[paddle.Tensor]:
        """All of the output, then the tapped ones."""
        return split((self.output, self.hidden))[0]


# Computes the answer to `(args, kwargs)`; the last argument gives the fingerprint of the weights, for engines that
# have a copy of something made from them.
Fingerprint = Callable[[], paddle.Tensor]
Engine = Callable[[tuple[Any, ...], dict[str, Any], Fingerprint], Answer]

ENGINES = ("auto", "inference", "static", "dygraph")

_CHECKED_SHAPES = 2
_MOST_PROGRAMS = 4
_LARGE_TABLE = 1 << 20  # numbers
_TOKENS = 512  # per run in Paddle Inference: 90 MiB less than 2,048 for MiniLM's size, at 1.04 of their time


def engine_of(name: str, model: nn.Layer, taps: Taps) -> Engine:
    """The engine of one of the names in `ENGINES` for a frozen model.

    ``"auto"`` is Paddle Inference on a CPU and a static graph elsewhere, and goes layer by layer, with one log
    line, where the model cannot be made a program that gives the same answers. The others raise ConfigError there.
    """
    if name == "dygraph":
        return LayerByLayer(model, taps)
    on_cpu = paddle.device.get_device() == "cpu"
    if name == "inference" and not on_cpu:
        raise ConfigError("teacher_engine 'inference' runs on the CPU, and Paddle was told to use another device")
    make = _Predicted if name == "inference" or (name == "auto" and on_cpu) else _Program
    return AsProgram(model, taps, make, strict=name != "auto")


class LayerByLayer:
    """Runs the model as it is."""

    def __init__(self, model: nn.Layer, taps: Taps) -> None:
        self._model = model
        self._taps = taps

    def __call__(self, args: tuple[Any, ...], kwargs: dict[str, Any], state: Fingerprint) -> Answer:
        """The model's answer."""
        with paddle.no_grad(), paddle.amp.auto_cast(enable=False), self._taps.record() as hidden:
            return Answer(self._model(*args, **kwargs), hidden)


class AsProgram:
    """Runs the model as a program, one for each nesting of inputs with their dtypes and fixed dimensions.

    Args:
        model: the frozen model, in eval mode.
        taps: the layers whose outputs are wanted too.
        make: the kind of program.
        strict: whether a model that cannot be a program is an error.
    """

    def __init__(self, model: nn.Layer, taps: Taps, make: type[_Program], strict: bool) -> None:
        self._model = model
        self._taps = taps
        self._plain = LayerByLayer(model, taps)
        self._make = make
        self._strict = strict
        self._programs: dict[str, _Program] = {}
        self._given_up = False

    def __call__(self, args: tuple[Any, ...], kwargs: dict[str, Any], state: Fingerprint) -> Answer:
        """The model's answer."""
        if self._given_up:
            return self._plain(args, kwargs, state)
        try:
            return self._checked(args, kwargs, state)
        except Exception as error:  # whatever tracing somebody's model raises
            said = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
            if self._strict:
                raise ConfigError(f"teacher_engine: the teacher cannot be a program: {said}") from error
            logger.warning("the teacher runs layer by layer, as it cannot be a program: %s", said)
            self._given_up = True
            self._programs.clear()
            return self._plain(args, kwargs, state)

    def _checked(self, args: tuple[Any, ...], kwargs: dict[str, Any], state: Fingerprint) -> Answer:
        tensors, nesting = split((args, kwargs))
        _check_plain(nesting, "its input")
        specs = [_spec(tensor, number) for number, tensor in enumerate(tensors)]
        kind = repr((nesting, [(spec.shape, spec.dtype) for spec in specs]))
        if kind not in self._programs:
            if len(self._programs) == _MOST_PROGRAMS:
                raise ConfigError(f"it was called with more than {_MOST_PROGRAMS} kinds of inputs")
            self._programs[kind] = self._make(self._model, self._taps, nesting, specs)
        program = self._programs[kind]
        with paddle.no_grad(), paddle.amp.auto_cast(enable=False):
            answer = program(tensors, state)
        if program.unchecked(tensors):
            expected = self._plain(args, kwargs, state)
            compare(expected.tensors, answer.tensors, "the teacher as a program")
            program.passed(tensors)
        return answer


class _Flat(nn.Layer):
    """A model with its inputs and outputs as flat lists of tensors, as programs have them.

    Attributes:
        inputs: the nesting of the inputs.
        given: the inputs of the call that is being traced; those that the nesting does not name are left alone.
        hidden: the tapped outputs, which somebody records while it is traced.
        outputs: after that, the nesting of the output and of the tapped outputs.
        touching: whether the last output is one that depends on all inputs: files refuse inputs that nothing needs.
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
        # A program gives a value once, also where two layers hand on the same one.
        once = {id(tensor): tensor for tensor in found}
        number = {key: number for number, key in enumerate(once)}
        self.outputs = join(nesting, [Place(number[id(tensor)]) for tensor in found])
        touched = [paddle.concat([one.reshape([-1])[:1].astype("float32") for one in self.given])] * self.touching
        return [*once.values(), *touched]


class _Program:
    """A program of a model for one kind of inputs: here a static graph over the model's own parameters.

    Args:
        model: the model.
        taps: the layers whose outputs are wanted too.
        inputs: the nesting of its inputs.
        specs: of each tensor among them.
    """

    _touching = False

    def __init__(self, model: nn.Layer, taps: Taps, inputs: Any, specs: Sequence[InputSpec]) -> None:
        self._flat = _Flat(model, inputs, self._touching)
        self._taps = taps
        self._traced = paddle.jit.to_static(self._flat, input_spec=[list(specs)], full_graph=True)
        self._checked: set[str] = set()

    def __call__(self, tensors: list[paddle.Tensor], state: Fingerprint) -> Answer:
        """The answer to some inputs."""
        found = self._run(tensors, state)
        _check_plain(self._flat.outputs, "its output")
        return Answer(*join(self._flat.outputs, found))

    def unchecked(self, tensors: Sequence[paddle.Tensor]) -> bool:
        """Whether these shapes are among the first, whose answers are checked."""
        return _shapes(tensors) not in self._checked and len(self._checked) < _CHECKED_SHAPES

    def passed(self, tensors: Sequence[paddle.Tensor]) -> None:
        """Notes that the answer at these shapes was right."""
        self._checked.add(_shapes(tensors))

    def _run(self, tensors: list[paddle.Tensor], state: Fingerprint) -> list[paddle.Tensor]:
        with self._tapped():
            return list(self._traced(tensors))

    @contextmanager
    def _tapped(self) -> Iterator[None]:
        """Where the model may be traced: Paddle does that whenever it sees fit."""
        with forwards_kept(self._flat.model), self._taps.record() as self._flat.hidden:
            yield
        self._flat.hidden = {}


class _Predicted(_Program):
    """A program in Paddle Inference with oneDNN, on the CPU; it has a copy of the weights, renewed when they change.

    It keeps the memory of its largest run, so token ids go in by some rows at a time. Large embedding tables stay out
    of the copy: what they say of the ids among the inputs is looked up before, and is an input of its own.
    """

    _touching = True

    def __init__(self, model: nn.Layer, taps: Taps, inputs: Any, specs: Sequence[InputSpec]) -> None:
        layers = _large_tables(model) if _all_ids(specs) else []
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
        rows = len(tensors[0]) if tensors and tensors[0].ndim else 0
        pieces = [slice(None)] if self._whole else _pieces(tensors)
        first = self._answered(self._predictor, tensors, pieces[0])
        if len(pieces) > 1 and any(value.shape[:1] != (pieces[0].stop,) for value in first):
            self._whole, pieces = True, [slice(None)]  # an output without the rows of its inputs
            first = self._answered(self._predictor, tensors, pieces[0])
        if len(pieces) == 1:
            return [from_dlpack(value.__dlpack__()) for value in first]
        found = [np.empty((rows, *value.shape[1:]), value.dtype) for value in first]
        for number, piece in enumerate(pieces):
            values = self._answered(self._predictor, tensors, piece) if number else first
            for whole, value in zip(found, values, strict=True):
                whole[piece] = value
        return [from_dlpack(value.__dlpack__()) for value in found]

    def _opened(self) -> Predictor:
        with tempfile.TemporaryDirectory() as folder, self._tapped(), ExitStack() as hooks:
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
    """An embedding table and the inputs of a program that go with it.

    Args:
        layer: the embedding.
        number: of the input that holds what it says.

    Attributes:
        source: number of the input that holds its ids; None until one was seen.
    """

    def __init__(self, layer: nn.Embedding, number: int) -> None:
        self.layer = layer
        self.number = number
        self.source: int | None = None

    def __call__(self, inputs: Sequence[paddle.Tensor]) -> paddle.Tensor:
        """What it says of its ids, [rows, length, features]; a row that nobody reads where it has none."""
        if self.source is None:
            return paddle.zeros([1, 1, self.layer.weight.shape[1]], self.layer.weight.dtype)
        return self.layer(inputs[self.source])

    @property
    def spec(self) -> InputSpec:
        """Of the input that holds what it says."""
        return InputSpec([None, None, self.layer.weight.shape[1]], self.layer.weight.dtype, name=f"x{self.number}")

    def stand_in(self, flat: _Flat) -> Callable[[nn.Layer, Any, paddle.Tensor], paddle.Tensor]:
        """A hook that puts the input in the place of what the layer says of one of the other inputs."""

        def hook(layer: nn.Layer, called_with: Any, output: paddle.Tensor) -> paddle.Tensor:
            for source, given in enumerate(flat.given):
                if called_with[0] is given and self.source in (None, source):
                    self.source = source
                    return flat.given[self.number]
            return output

        return hook


def _all_ids(specs: Sequence[InputSpec]) -> bool:
    return bool(specs) and all(len(spec.shape) == 2 and "int" in str(spec.dtype) for spec in specs)


def _large_tables(model: nn.Layer) -> list[nn.Embedding]:
    layers = model.sublayers(include_self=True)
    return [layer for layer in layers if type(layer) is nn.Embedding and layer.weight.size >= _LARGE_TABLE]


def _spec(tensor: paddle.Tensor, number: int) -> InputSpec:
    """The kind of an input: token ids of any shape, images of any batch size."""
    shape = list(tensor.shape)
    free = min(1, len(shape)) if tensor.is_floating_point() else len(shape)
    return InputSpec([*[None] * free, *shape[free:]], tensor.dtype, name=f"x{number}")


def _pieces(tensors: Sequence[paddle.Tensor]) -> list[slice]:
    """The rows that go in at a time: all of them, unless all inputs are token ids of as many rows."""
    shapes = {tuple(tensor.shape) for tensor in tensors}
    if len(shapes) != 1 or any(tensor.is_floating_point() or tensor.ndim != 2 for tensor in tensors):
        return [slice(None)]
    ((rows, length),) = shapes
    step = max(1, _TOKENS // max(1, length))
    return [slice(start, min(start + step, rows)) for start in range(0, rows, step)] or [slice(None)]


def _shapes(tensors: Sequence[paddle.Tensor]) -> str:
    return repr([tensor.shape for tensor in tensors])


def _number(name: str) -> int:
    return int(name[1:])


def _check_plain(nesting: Any, what: str) -> None:
    kind = unsupported_leaf(nesting)
    if kind is not None:
        raise OfaSlimError(f"{what} holds a {kind}")
