"""A model as a list of operations, from which the coupling of widths is read."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import paddle
from paddle import nn
from paddle.static import InputSpec

from ofa_slim.base.modes import forward_signature, forwards_kept, modes_kept
from ofa_slim.base.nested import join, split
from ofa_slim.errors import ConvertError


@dataclass(frozen=True)
class Op:
    """One operation.

    Attributes:
        name: Paddle's name of it, such as ``"conv2d"``.
        inputs: ids of its inputs; None for an optional one that is absent.
        outputs: ids of its outputs.
        attributes: its attributes.
        inner: for control flow, the operations inside it.
    """

    name: str
    inputs: tuple[str | None, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    inner: tuple[Op, ...] = ()


@dataclass
class Program:
    """A traced model.

    Attributes:
        ops: the operations in the order in which they run.
        shapes: of every tensor value, by id.
        parameters: names of the parameters and buffers, by id of their values.
        outputs: ids of what the model returns.
    """

    ops: list[Op] = field(default_factory=list)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    parameters: dict[str, str] = field(default_factory=dict)
    outputs: list[str] = field(default_factory=list)


class _Traced(nn.Layer):
    """Calls a model with inputs from a list, so that its own forward stays as it is."""

    def __init__(self, model: nn.Layer, template: Any, translated: bool) -> None:
        super().__init__()
        self.model = model
        self._template, self._translated = template, translated

    def forward(self, tensors: list[paddle.Tensor]) -> Any:
        """The model's output."""
        args, kwargs = join(self._template, tensors)
        if self._translated:
            return self.model(*args, **kwargs)
        return _called_as_it_is(self.model, args, kwargs)


@paddle.jit.not_to_static
def _called_as_it_is(model: nn.Layer, args: Any, kwargs: Any) -> Any:
    return model(*args, **kwargs)


def tensors_in(value: Any) -> Iterator[Any]:
    """The tensors, or values of a static graph, of a nested value in order."""
    if paddle.is_tensor(value):
        yield value
    elif isinstance(value, (Mapping, list, tuple)):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from tensors_in(item)


def trace(model: nn.Layer, args: tuple[Any, ...], kwargs: Mapping[str, Any], training: bool = False) -> Program:
    """Runs a model once symbolically and returns its operations.

    Args:
        model: the model; neither it nor its forward is changed.
        args: its positional inputs: tensors, or anything nested around them.
        kwargs: its keyword inputs.
        training: whether it runs in train mode, in which a model may have further outputs.

    Raises: ConvertError where Paddle cannot follow the model's forward.
    """
    # Before 3.2 Paddle's translation of a forward loses the defaults of keyword-only arguments.
    defaults = {
        name: one.default
        for name, one in forward_signature(model).parameters.items()
        if one.kind is one.KEYWORD_ONLY and one.default is not one.empty and name not in kwargs
    }
    tensors, template = split((args, {**kwargs, **defaults}))
    specs = [InputSpec(tensor.shape, tensor.dtype, name=f"input_{i}") for i, tensor in enumerate(tensors)]
    # Translating the code of each layer takes most of the time, and only control flow that depends on data needs it.
    try:
        concrete = _concrete(_Traced(model, template, translated=False), specs, training)
    except Exception:  # such control flow, or anything else that the forward raises
        try:
            concrete = _concrete(_Traced(model, template, translated=True), specs, training)
        except Exception as error:  # anything that the model's forward raises while it is translated
            raise ConvertError(
                f"the forward of {type(model).__name__} cannot be traced, so it is unknown which widths must agree: "
                f"{type(error).__name__}: {_first_line(error)}"
            ) from error
    program = Program()
    for op in concrete.main_program.global_block().ops:
        program.ops.append(_read(op, program))
    program.outputs = [value.id for value in tensors_in(concrete.outputs)]
    return program


def _concrete(wrapped: _Traced, specs: list[InputSpec], training: bool) -> Any:
    """Paddle's program of a model, which is as before after it."""
    with modes_kept(wrapped), forwards_kept(wrapped.model), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped.train() if training else wrapped.eval()
        static: Any = paddle.jit.to_static(wrapped, input_spec=[specs], full_graph=True)
        return static.forward.concrete_program


def _read(op: Any, program: Program) -> Op:
    name = op.name().removeprefix("pd_op.")
    if name == "builtin.parameter":
        program.parameters[op.result(0).id] = op.attrs()["parameter_name"]
    for result in op.results():
        shape = _shape(result)
        if shape is not None:
            program.shapes[result.id] = shape
    operands = [op.operand_source(i) for i in range(op.num_operands())]
    attributes = {key: value for key, value in op.attrs().items() if key not in ("op_callstack", "place")}
    return Op(
        name,
        tuple(value.id if value.initialized() else None for value in operands),
        tuple(result.id for result in op.results()),
        attributes,
        tuple(_read(inner, program) for block in op.blocks() for inner in block.ops),
    )


def _shape(value: Any) -> tuple[int, ...] | None:
    try:
        return tuple(value.shape)
    except ValueError:  # a list of tensors has none
        return None


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else ""
