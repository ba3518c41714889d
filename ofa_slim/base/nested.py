"""Nested lists, tuples and dictionaries of tensors, taken apart and put together again.

Values of a static graph count as tensors too.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import paddle

PLAIN = (type(None), bool, int, float, str)


@dataclass(frozen=True)
class Place:
    """Where a tensor was: its number in the list that `split` returns."""

    number: int


@paddle.jit.not_to_static
def split(value: Any) -> tuple[list[paddle.Tensor], Any]:
    """Takes the tensors out of nested lists, tuples and dictionaries.

    Returns: the tensors in order, and the same nesting with a `Place` where each was. Anything else, other
        kinds of containers included, stays where it is; `unsupported_leaf` names it.
    """
    tensors: list[paddle.Tensor] = []

    def taken(leaf: Any) -> Any:
        if not paddle.is_tensor(leaf):
            return leaf
        tensors.append(leaf)
        return Place(len(tensors) - 1)

    return tensors, mapped(taken, value)


@paddle.jit.not_to_static
def join(template: Any, values: Sequence[Any]) -> Any:
    """Puts tensors, or what else stands for them, where `split` took them from."""
    return mapped(lambda leaf: values[leaf.number] if isinstance(leaf, Place) else leaf, template)


def mapped(change: Callable[[Any], Any], value: Any) -> Any:
    """The same nesting of lists, tuples (named ones too) and dictionaries with every leaf changed."""
    if type(value) in (dict, OrderedDict):
        return type(value)((key, mapped(change, item)) for key, item in value.items())
    if type(value) in (list, tuple):
        return type(value)(mapped(change, item) for item in value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(mapped(change, item) for item in value))
    return change(value)


def unsupported_leaf(nesting: Any) -> str | None:
    """The class of something in a nesting that may hide tensors from `split`; None where all is plain."""
    found: list[str] = []

    def looked(leaf: Any) -> Any:
        if not isinstance(leaf, (Place, *PLAIN)):
            found.append(type(leaf).__name__)
        return leaf

    mapped(looked, nesting)
    return found[0] if found else None


def first_tensor(output: Any) -> paddle.Tensor:
    """The tensor itself, or the first one of a tuple, list or dictionary."""
    while not paddle.is_tensor(output):
        output = next(iter(output.values() if isinstance(output, Mapping) else output))
    return output
