"""How a teacher computes its answers: layer by layer, as a static graph, or in Paddle Inference.

A frozen model needs no autograd, so its forward can be a program. On two CPU cores a static graph took 0.6 of the
layer-by-layer time of MiniLM, Paddle Inference with oneDNN less than half. Programs are made per kind of input
and compared with the layer-by-layer answer at the first two shapes that they meet.
"""

from __future__ import annotations

import logging
from typing import Any

import paddle
from paddle import nn

from ofa_slim.base.examples import compare
from ofa_slim.base.nested import split
from ofa_slim.base.taps import Taps
from ofa_slim.errors import ConfigError
from ofa_slim.train.teacher.answer import Answer, Engine, Fingerprint
from ofa_slim.train.teacher.compiled import InferenceProgram, StaticProgram, check_plain, input_spec

logger = logging.getLogger(__name__)

ENGINES = ("auto", "inference", "static", "dygraph")

_CHECKED_SHAPES = 2
_MOST_PROGRAMS = 4


def engine_of(name: str, model: nn.Layer, taps: Taps) -> Engine:
    """The engine of one of the names in `ENGINES` for a frozen model.

    ``"auto"`` is Paddle Inference on a CPU and a static graph elsewhere; it falls back to layer by layer, with one log
    line, if the model cannot be made a program that gives the same answers. The others raise ConfigError then.
    """
    if name == "dygraph":
        return LayerByLayer(model, taps)
    on_cpu = paddle.device.get_device() == "cpu"
    if name == "inference" and not on_cpu:
        raise ConfigError("teacher_engine 'inference' runs on the CPU, and Paddle was told to use another device")
    kind = InferenceProgram if name == "inference" or (name == "auto" and on_cpu) else StaticProgram
    return AsProgram(model, taps, kind, strict=name != "auto")


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
        taps: the layers whose outputs are part of the answer.
        kind: the class of the programs.
        strict: whether a model that cannot be a program is an error.
    """

    def __init__(self, model: nn.Layer, taps: Taps, kind: type[StaticProgram], strict: bool) -> None:
        self._model = model
        self._taps = taps
        self._plain = LayerByLayer(model, taps)
        self._kind = kind
        self._strict = strict
        self._programs: dict[str, StaticProgram] = {}
        self._checked_shapes: dict[str, set[str]] = {}
        self._given_up = False

    def __call__(self, args: tuple[Any, ...], kwargs: dict[str, Any], state: Fingerprint) -> Answer:
        """The model's answer."""
        if self._given_up:
            return self._plain(args, kwargs, state)
        try:
            return self._run(args, kwargs, state)
        except Exception as error:  # whatever tracing a user's model raises
            reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
            if self._strict:
                raise ConfigError(f"teacher_engine: the teacher cannot be a program: {reason}") from error
            logger.warning("the teacher runs layer by layer, as it cannot be a program: %s", reason)
            self._given_up = True
            self._programs.clear()
            return self._plain(args, kwargs, state)

    def _run(self, args: tuple[Any, ...], kwargs: dict[str, Any], state: Fingerprint) -> Answer:
        tensors, nesting = split((args, kwargs))
        check_plain(nesting, "its input")
        specs = [input_spec(tensor, number) for number, tensor in enumerate(tensors)]
        key = repr((nesting, [(spec.shape, spec.dtype) for spec in specs]))
        if key not in self._programs:
            if len(self._programs) == _MOST_PROGRAMS:
                raise ConfigError(f"it was called with more than {_MOST_PROGRAMS} kinds of inputs")
            self._programs[key] = self._kind(self._model, self._taps, nesting, specs)
        with paddle.no_grad(), paddle.amp.auto_cast(enable=False):
            answer = self._programs[key](tensors, state)
        shapes, checked = repr([tensor.shape for tensor in tensors]), self._checked_shapes.setdefault(key, set())
        if shapes not in checked and len(checked) < _CHECKED_SHAPES:
            compare(self._plain(args, kwargs, state).tensors, answer.tensors, "the teacher as a program")
            checked.add(shapes)
        return answer
