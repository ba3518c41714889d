"""Nested lists, tuples and dictionaries of tensors: walked, split into tensors and nesting, and joined again.

Values of a static graph count as tensors too.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
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

    Returns: the tensors in order, and the same nesting with a `Place` where each was. Anything else stays where it is,
        other kinds of containers included; `unsupported_leaf` names these.
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
    """Puts tensors, or values that stand for them, where `split` took them from."""
    return mapped(lambda leaf: values[leaf.number] if isinstance(leaf, Place) else leaf, template)


def mapped(change: Callable[[Any], Any], value: Any) -> Any:
    """The same nesting of lists, tuples (named ones too) and dictionaries, with `change` applied to every leaf."""
    if type(value) in (dict, OrderedDict):
        return type(value)((key, mapped(change, item)) for key, item in value.items())
    if type(value) in (list, tuple):
        return type(value)(mapped(change, item) for item in value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(mapped(change, item) for item in value))
    return change(value)


def unsupported_leaf(nesting: Any) -> str | None:
    """The class of the first object in a nesting that may hide tensors from `split`; None if there is none."""
    unsupported: list[str] = []

    def check(leaf: Any) -> None:
        if not isinstance(leaf, (Place, *PLAIN)):
            unsupported.append(type(leaf).__name__)

    mapped(check, nesting)
    return unsupported[0] if unsupported else None


def walk(value: Any) -> Iterator[Any]:
    """Every leaf inside nested mappings and sequences of any class, the keys of mappings and the lengths of sequences.

    Two nestings with equal walks are equal.
    """
    if isinstance(value, Mapping):
        for key in value:
            yield key
            yield from walk(value[key])
    elif isinstance(value, (list, tuple)):
        yield len(value)
        for item in value:
            yield from walk(item)
    else:
        yield value


def tensors_in(value: Any) -> Iterator[paddle.Tensor]:
    """The tensors inside nested mappings and sequences of any class, in order."""
    return (leaf for leaf in walk(value) if paddle.is_tensor(leaf))


def first_tensor(output: Any) -> paddle.Tensor:
    """The tensor itself, or the first one inside nested mappings and sequences."""
    return next(tensors_in(output))
