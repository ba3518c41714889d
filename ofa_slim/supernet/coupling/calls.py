"""What a rule works with: the values of a traced program, a call of an operation, and the table of rules.

A rule gets a call of an operation and returns, for each output, the terms of its dimensions (None: a dimension
that no width changes). Inputs of an operation without a rule keep their full width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ofa_slim.supernet.coupling.program import Op
from ofa_slim.supernet.coupling.terms import Term, fix, unify

Dims = list[Term | None]


@dataclass
class Value:
    """A tensor of the traced program.

    Attributes:
        shape: at full size.
        dims: per dimension, the term that says which entries take part.
        origin: its name in reasons.
        numbers: the content of a constant list of numbers.
    """

    shape: tuple[int, ...]
    dims: Dims
    origin: str
    numbers: tuple[float, ...] | None = None

    def term(self, axis: int) -> Term:
        """The term of a dimension."""
        found = self.dims[axis]
        if found is None:
            raise NoRuleError
        return found


@dataclass
class Call:
    """One operation with its inputs and the shapes of its outputs."""

    op: Op
    inputs: list[Value | list[Value] | None]
    shapes: list[tuple[int, ...]] = field(default_factory=list)

    def value(self, index: int) -> Value:
        """An input that is a tensor."""
        found = self.inputs[index]
        if not isinstance(found, Value):
            raise NoRuleError
        return found

    def optional(self, index: int) -> Value | None:
        """An optional input; None if it is absent."""
        return self.value(index) if index < len(self.inputs) and self.inputs[index] is not None else None

    def listed(self, index: int) -> list[Value]:
        """An input that is a list of tensors."""
        found = self.inputs[index]
        if not isinstance(found, list):
            raise NoRuleError
        return found

    def number(self, index: int) -> int:
        """An input that is a constant number."""
        numbers = self.value(index).numbers
        if numbers is None or len(numbers) != 1:
            raise NoRuleError
        return int(numbers[0])

    def numbers(self, index: int) -> tuple[float, ...] | None:
        """The content of an input that is a constant list of numbers; None where it depends on data."""
        found = self.inputs[index] if index < len(self.inputs) else None
        return found.numbers if isinstance(found, Value) else None

    def attribute(self, name: str) -> Any:
        """One of its attributes."""
        if name not in self.op.attributes:
            raise NoRuleError
        return self.op.attributes[name]

    def channels(self, value: Value) -> int:
        """The channel dimension of a value, by the data format."""
        layout = str(self.op.attributes.get("data_format", "NCHW"))
        return 1 if layout.startswith("NC") or layout == "AnyLayout" else len(value.shape) - 1


class NoRuleError(Exception):
    """The operation is used in a way that its rule does not cover."""


Rule = Callable[[Call], list[Any]]
RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Registers a rule for operations of these names."""

    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, function))
        return function

    return register


def agree(one: Value, i: int, other: Value, j: int) -> None:
    """Dimension `i` of one value and `j` of another have the same entries, unless one is broadcast."""
    if 1 in (one.shape[i], other.shape[j]):
        return
    a, b = one.dims[i], other.dims[j]
    if a is not None and b is not None:
        unify(a, b, "its width meets one that is composed differently")
    elif a is not None:
        fix(a, f"it meets the fixed size of {other.origin}")
    elif b is not None:
        fix(b, f"it meets the fixed size of {one.origin}")


def whole(value: Value, axes: Iterable[int], reason: str) -> None:
    """Keeps dimensions at their full size."""
    for axis in axes:
        term = value.dims[axis]
        if term is not None:
            fix(term, reason)


def broadcast(values: Sequence[Value]) -> Dims:
    """The dimensions of an elementwise operation on values."""
    rank = max(len(value.shape) for value in values)
    dims: Dims = []
    for axis in range(-rank, 0):
        present = [value for value in values if len(value.shape) >= -axis and value.shape[axis] != 1]
        for other in present[1:]:
            agree(present[0], axis, other, axis)
        dims.append(next((value.dims[axis] for value in present if value.dims[axis] is not None), None))
    return dims


def axiswise(value: Value, shape: Sequence[int], why: str) -> Dims:
    """Dimensions whose size stays keep their term; the others are fixed for the reason `why`."""
    if len(value.shape) != len(shape):
        raise NoRuleError
    whole(value, [axis for axis, size in enumerate(shape) if size != value.shape[axis]], why)
    return [dim if value.shape[axis] == shape[axis] else None for axis, dim in enumerate(value.dims)]


def constant(attributes: Mapping[str, Any]) -> tuple[float, ...] | None:
    """The numbers of an operation that makes a constant list of numbers."""
    value = attributes.get("value")
    if isinstance(value, (int, float)):
        return (value,)
    return tuple(value) if isinstance(value, (list, tuple)) and len(value) <= 64 else None
