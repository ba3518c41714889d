"""Changes of a space with which a forward may run at smaller sizes: numbers that follow widths, and joint axes."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from paddle import nn

from ofa_slim.supernet.axis import WIDTH, Axis, Slot
from ofa_slim.supernet.layers import Owner, is_number_role, number_role, numbers_in, swap_back
from ofa_slim.supernet.mending.running import Failure, Frame
from ofa_slim.supernet.paths import layer_at
from ofa_slim.supernet.space import SearchSpace
from ofa_slim.supernet.spec import channels_of, spec_of

# Which entries of a number are those of an axis: how many for each step of the axis, by the axis's name.
Shares = Mapping[str, int]
Number = tuple[str, str]  # the path of a layer, and the name of a number that it holds

_NEAREST = 8  # so many axes are tried for a number that is the width of several
_TRIED_TOGETHER = 64


def proposals(model: nn.Layer, space: SearchSpace, failure: Failure) -> Iterator[SearchSpace]:
    """Spaces in which numbers follow widths that may have to, for a failure; the likeliest first.

    One number of a layer follows an axis, or all that its code names and that can follow one do.
    """
    for frame in failure.frames:
        candidates = _numbers(model, space, frame)
        for number, found in candidates.items():
            for shares in found:
                yield with_number(space, number, shares)
        if len(candidates) > 1:
            every = itertools.product(*candidates.values())
            for chosen in itertools.islice(every, _TRIED_TOGETHER):
                changed = space
                for number, shares in zip(candidates, chosen, strict=True):
                    changed = with_number(changed, number, shares)
                yield changed


def _numbers(model: nn.Layer, space: SearchSpace, frame: Frame) -> dict[Number, list[Shares]]:
    """The numbers that the code that failed names and that are the width of an axis.

    The layer whose code it is holds them, or one directly inside it.
    """
    layer = layer_at(model, frame.path)
    found: dict[Number, list[Shares]] = {}
    for name, holder in [("", layer), *layer.named_children()]:
        path = ".".join(part for part in (frame.path, name) if part)
        for number, value in _free_numbers(space, path, holder):
            if number.partition(".")[0] in frame.names:
                shares = list(itertools.islice(_shares(space, frame.path, value), _NEAREST))
                if shares:
                    found[path, number] = shares
    return found


def _free_numbers(space: SearchSpace, path: str, layer: nn.Layer) -> Iterator[tuple[str, int]]:
    """The numbers that a layer of a class without a row holds and that follow no axis yet."""
    if spec_of(layer) is not None and not isinstance(layer, Owner):
        return
    following = {slot.role for axis in space.axes for slot in axis.slots if slot.layer == path}
    for name, value in numbers_in(layer):
        if number_role(name) not in following:
            yield name, value


def is_like_heads(axis: Axis) -> bool:
    """Whether the units of an axis are several channels of what a layer makes."""
    return any(slot.is_output and slot.unit > 1 for slot in axis.slots)


def counts_of(model: nn.Layer, space: SearchSpace, axis: Axis) -> Iterator[SearchSpace]:
    """Spaces in which a number of a layer around those on an axis follows it."""
    around = dict.fromkeys(slot.layer.rpartition(".")[0] for slot in axis.slots)
    for path in around:
        for name, value in _free_numbers(space, path, layer_at(model, path)):
            if _may_count(axis, value):
                yield with_number(space, (path, name), {axis.name: value // axis.size})


def _shares(space: SearchSpace, path: str, number: int) -> Iterator[Shares]:
    """The axes of which a number is the size or the width, those of layers near `path` first."""
    widths: dict[tuple[str, str], Counter[str]] = {}
    sizes: dict[tuple[str, str], int] = {}
    near: dict[str, int] = {}
    elastic = [axis for axis in space.axes if axis.task == WIDTH and axis.elastic]
    for axis in space.axes:
        for slot in axis.slots:
            if is_number_role(slot.role):
                continue
            key, each = (slot.layer, slot.role), slot.unit * len(slot.starts)
            widths.setdefault(key, Counter())[axis.name] += each
            sizes[key] = sizes.get(key, 0) + axis.size * each
            near[axis.name] = max(near.get(axis.name, 0), _common(slot.layer, path))
    found: list[Shares] = [dict(shares) for key, shares in widths.items() if sizes[key] == number]
    found += [{axis.name: number // axis.size} for axis in elastic if _may_count(axis, number)]
    names = {axis.name for axis in elastic}
    found = [shares for shares in found if not names.isdisjoint(shares)]
    seen: set[tuple[tuple[str, int], ...]] = set()
    for shares in sorted(found, key=lambda shares: -min(near[name] for name in shares)):
        same = tuple(sorted(shares.items()))
        if same not in seen:
            seen.add(same)
            yield shares


def _may_count(axis: Axis, number: int) -> bool:
    """Whether a number is that of the units of an axis, or of equal parts of them: heads, or heads in groups."""
    each, rest = divmod(number, axis.size)
    return each > 0 and rest == 0 and any(slot.unit * len(slot.starts) % each == 0 for slot in axis.slots)


def _common(one: str, other: str) -> int:
    """How many parts two paths have in common; all of `other` count twice."""
    mine, its = one.split("."), other.split(".") if other else []
    common = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(mine, its, strict=False)))
    return 2 * common + (common == len(its))


def with_number(space: SearchSpace, number: Number, shares: Shares) -> SearchSpace:
    """The space in which a number follows axes."""
    path, name = number
    offset, axes = 0, []
    for axis in space.axes:
        each = shares.get(axis.name)
        if each is None:
            axes.append(axis)
            continue
        slot = Slot(path, number_role(name), each, (offset,))
        offset += axis.size * each
        axes.append(replace(axis, slots=(*axis.slots, slot)))
    return space.replaced(axes)


def joined(space: SearchSpace, names: Collection[str]) -> SearchSpace | None:
    """The space in which some axes shrink in proportion, as one; None where their sizes allow no such steps."""
    axes = [axis for axis in space.axes if axis.name in names]
    size = math.gcd(*(axis.size for axis in axes))
    if size < 2 or len(axes) < 2 or any(axis.original != axis.size or axis.fixed_reason for axis in axes):
        return None
    times = [axis.size // size for axis in axes]
    coarse = min(axes, key=lambda axis: axis.size)
    choices = {channels_of(choice / coarse.size, size) for choice in coarse.choices}
    slots = [
        replace(slot, unit=slot.unit * each) for axis, each in zip(axes, times, strict=True) for slot in axis.slots
    ]
    slots.sort(key=lambda slot: not slot.is_output)
    one = Axis(axes[0].name, size, tuple(choices), tuple(slots), original=size)
    kept = [one if axis is axes[0] else axis for axis in space.axes if axis is axes[0] or axis not in axes]
    return space.replaced(kept)


def changed_axes(before: SearchSpace, after: SearchSpace) -> set[str]:
    """The names of the axes of a space that have other slots than before."""
    own: dict[str, Sequence[Any]] = {axis.name: axis.slots for axis in before.axes}
    return {axis.name for axis in after.axes if own.get(axis.name) != axis.slots}


def elastic_owners(model: nn.Layer, space: SearchSpace) -> Iterator[tuple[Any, str]]:
    """The layers of the user's own with numbers that follow an axis, and the roles of those."""
    for axis in space.axes:
        for slot in axis.slots:
            if is_number_role(slot.role):
                yield layer_at(model, slot.layer), slot.role


def forget_unused(model: nn.Layer, space: SearchSpace) -> None:
    """Takes numbers that were tried and follow no axis off their layers; those that hold nothing else become plain."""
    used = {(slot.layer, slot.role) for axis in space.axes for slot in axis.slots}
    for path, layer in model.named_sublayers(include_self=True):
        if not isinstance(layer, Owner):
            continue
        for role in [role for role in layer.max_sizes if is_number_role(role) and (path, role) not in used]:
            for sizes in (layer.max_sizes, layer.original_sizes, layer.active_sizes):
                sizes.pop(role, None)
        if not layer.max_sizes:
            swap_back(layer)


def axes_under(space: SearchSpace, path: str) -> set[str]:
    """The names of the axes that cut a layer inside the layer at `path`."""
    inside = f"{path}." if path else ""
    return {axis.name for axis in space.axes for slot in axis.slots if slot.layer.startswith(inside)}
