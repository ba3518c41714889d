"""Numbers that a layer of the user's own class holds and its forward reads: sizes to reshape to, counts of heads.

A number that follows a width is a role of its layer, ``"=channels"`` for attribute `channels` and ``"=sizes.0"`` for
the first entry of a list, a tuple or a dictionary; its size is the number itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from paddle import nn

from ofa_slim.supernet.layers.elastic import OWN_ATTRIBUTES

_MARK = "="
_CUT = "cut_numbers"  # the attribute in which an exported layer says which of its numbers are not its code's
_NOT_THE_USERS = frozenset((*vars(nn.Layer()), *OWN_ATTRIBUTES, _CUT))


def number_role(name: str) -> str:
    """The role of a number."""
    return _MARK + name


def is_number_role(role: str) -> bool:
    """Whether a role is a number."""
    return role.startswith(_MARK)


def numbers_in(layer: nn.Layer) -> Iterator[tuple[str, int]]:
    """The whole numbers above 0 that a layer holds itself, ``(name, number)``."""
    for name, value in vars(layer).items():
        if name in _NOT_THE_USERS or "." in name:
            continue
        for key, number in _entries(value):
            if isinstance(number, (int, np.integer)) and not isinstance(number, bool) and number > 0:
                yield (name if key is None else f"{name}.{key}"), int(number)


def cut_numbers(layer: nn.Layer, numbers: Mapping[str, int]) -> Callable[[], None]:
    """Changes numbers of a plain layer, which keeps a note of them; returns a function that undoes it.

    Raises: KeyError where it holds no such number.
    """
    names = {_CUT, *(name.partition(".")[0] for name in numbers)}
    before = {name: vars(layer)[name] for name in names if name in vars(layer)}
    for name, number in numbers.items():
        set_number(layer, name, number)
    if numbers:
        setattr(layer, _CUT, {**changed_numbers(layer), **numbers})

    def undo() -> None:
        vars(layer).pop(_CUT, None)
        for name, value in before.items():
            setattr(layer, name, value)

    return undo


def changed_numbers(layer: nn.Layer) -> dict[str, int]:
    """The numbers of a plain layer that cutting it has changed, by name."""
    return dict(vars(layer).get(_CUT, {}))


def set_number(layer: nn.Layer, name: str, number: int) -> None:
    """Changes a number that a layer holds.

    Raises: KeyError where it holds no such number.
    """
    attribute, _, key = name.partition(".")
    value = vars(layer)[attribute]
    if not key:
        setattr(layer, attribute, number)
    elif isinstance(value, dict):
        own = {str(one): one for one in value}
        setattr(layer, attribute, {**value, own[key]: number})
    else:
        changed = list(value)
        changed[int(key)] = number
        setattr(layer, attribute, tuple(changed) if isinstance(value, tuple) else changed)


def _entries(value: Any) -> list[tuple[Any, Any]]:
    if type(value) is dict:
        return list(value.items())
    return list(enumerate(value)) if type(value) in (list, tuple) else [(None, value)]
