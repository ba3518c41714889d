"""Rules of operations that move entries: slices, reshapes, concatenations, splits and shuffles."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ofa_slim.supernet.coupling.calls import Call, Dims, NoRuleError, Value, axiswise, broadcast, rule, whole
from ofa_slim.supernet.coupling.terms import Atom, Sum, Term, View, fix, resolved, split_at, unify


@rule("slice")
def sliced(call: Call) -> list[Any]:
    x = call.value(0)
    dropped = {axis % len(x.shape) for axis in call.op.attributes.get("decrease_axis", [])}
    whole(x, dropped, "one entry of it is taken")
    for place, axis in enumerate(call.op.attributes.get("axes", [])):
        axis %= len(x.shape)
        start, stop = (_bound(call.numbers(index), place, x.shape[axis]) for index in (1, 2))
        if axis not in dropped and start is not None and stop is not None:
            x = _taken(x, axis, start, stop)
    left = [axis for axis in range(len(x.shape)) if axis not in dropped]
    rest = Value(tuple(x.shape[axis] for axis in left), [x.dims[axis] for axis in left], x.origin)
    return [axiswise(rest, call.shapes[0], "a part of it is taken")]


def _bound(numbers: Sequence[float] | None, place: int, size: int) -> int | None:
    """Where a slice begins or ends; None where that depends on data."""
    if numbers is None or place >= len(numbers):
        return None
    number = int(numbers[place])
    return min(max(number + size if number < 0 else number, 0), size)


def _taken(x: Value, axis: int, start: int, stop: int) -> Value:
    """The entries from `start` to `stop`, a width of their own."""
    term, size = x.dims[axis], x.shape[axis]
    if term is None or stop <= start or stop - start == size:
        return x
    sizes = [part for part in (start, stop - start, size - stop) if part]
    parts = split_at(term, sizes)
    return x if parts is None else _part(x, axis, stop - start, parts[1 if start else 0])


@rule("set_value_with_tensor")
def set_part(call: Call) -> list[Any]:
    x, value = call.value(0), call.value(1)
    steps = call.numbers(4)
    if call.attribute("decrease_axes") or call.attribute("none_axes") or steps is None or set(steps) != {1}:
        raise NoRuleError
    part = x
    for place, axis in enumerate(call.attribute("axes")):
        axis %= len(x.shape)
        start, stop = (_bound(call.numbers(index), place, x.shape[axis]) for index in (2, 3))
        if start is None or stop is None or stop <= start:
            raise NoRuleError
        part = _taken(part, axis, start, stop)
        if part.shape[axis] != stop - start:
            whole(x, [axis], "a part of it is set")
            part = _part(part, axis, stop - start, None)
    broadcast([part, value])
    return [list(x.dims)]


@rule("strided_slice")
def strided(call: Call) -> list[Any]:
    x, axes = call.value(0), call.op.attributes.get("axes", [])
    for place, axis in enumerate(axes):
        axis %= len(x.shape)
        steps, size = call.numbers(3), x.shape[axis]
        step = int(steps[place]) if steps is not None and place < len(steps) else 1
        start = _bound(call.numbers(1), place, size)
        if x.dims[axis] is None or step < 2 or size % step or start is None or start >= step:
            continue
        if call.shapes[0][axis] == size // step:
            unit = Atom(size // step)
            unify(x.term(axis), View(unit, 1, step), "every so many entries of it are taken")
            x = _part(x, axis, size // step, unit)
    return [axiswise(x, call.shapes[0], "a part of it is taken")]


@rule("gather", "index_select")
def gathered(call: Call) -> list[Any]:
    x = call.value(0)
    axis = int(call.op.attributes["axis"]) if "axis" in call.op.attributes else call.number(2)
    whole(x, [axis % len(x.shape)], "entries of it are picked")
    if len(call.shapes[0]) != len(x.shape):
        raise NoRuleError
    return [[None if i == axis % len(x.shape) else dim for i, dim in enumerate(x.dims)]]


@rule("flip", "roll", "cumsum", "argsort", "topk")
def ordered(call: Call) -> list[Any]:
    x = call.value(0)
    axes = call.attribute("axis")
    axes = [axes] if isinstance(axes, int) else list(axes)
    whole(x, [axis % len(x.shape) for axis in axes], "the order of its entries matters")
    return [list(x.dims) for _ in call.shapes]


@rule("transpose")
def transpose(call: Call) -> list[Any]:
    x = call.value(0)
    return [[x.dims[axis] for axis in call.attribute("perm")]]


@rule("reshape", "flatten", "squeeze", "unsqueeze", "view_shape")
def reshape(call: Call) -> list[Any]:
    x, shape = call.value(0), call.shapes[0]
    dims: Dims = [None] * len(shape)
    for given, made in _matched(x.shape, shape):
        terms = [axis for axis in given if x.dims[axis] is not None]
        if not terms:
            continue
        if len(terms) > 1 or not made:
            whole(x, terms, "several widths are reshaped into one")
            continue
        position, term = terms[0], x.term(terms[0])
        before = math.prod(x.shape[axis] for axis in given if axis < position)
        after = math.prod(x.shape[axis] for axis in given if axis > position)
        merged = View(term, before, after) if before * after > 1 else term
        whole_units = _at_its_bounds(merged, made, shape)
        if whole_units is not None:
            dims[whole_units[0]] = whole_units[1]
        elif before * after == 1:
            # Channels of a sequence split into heads, whole heads are cut; of a map into groups, each group is cut.
            kept = _heads(made, shape) if made[-1] == len(shape) - 1 else made[1]
            outer = math.prod(shape[axis] for axis in made if axis < kept)
            inner = math.prod(shape[axis] for axis in made if axis > kept)
            unit = Atom(shape[kept])
            unify(merged, View(unit, outer, inner), "it is reshaped into parts that do not divide it")
            dims[kept] = unit
        else:
            whole(x, terms, "it is reshaped across its neighbours")
    return [dims, *[[None] * len(extra) for extra in call.shapes[1:]]]


def _at_its_bounds(merged: Term, made: Sequence[int], shape: Sequence[int]) -> tuple[int, Term] | None:
    """The dimension that holds the entries of a term as a whole, and as what; None where they are taken apart."""
    term = resolved(merged)
    view = term if isinstance(term, View) else View(term)
    for place, axis in enumerate(made):
        before = math.prod(shape[other] for other in made[:place])
        after = math.prod(shape[other] for other in made[place + 1 :])
        if view.outer % before == 0 and view.inner % after == 0:
            return axis, resolved(View(view.of, view.outer // before, view.inner // after))
    return None


def _heads(made: Sequence[int], shape: Sequence[int]) -> int:
    """Which of the dimensions that channels are split into is the heads: the last but that of their channels.

    Queries, keys and values in one matrix are a dimension of two or three beside it. A single head is cut inside.
    """
    if shape[made[-1] - 1] == 1:
        return made[-1]
    left = [axis for axis in made[:-1] if shape[axis] > 3]
    return left[-1] if left else made[-2]


def _matched(given: Sequence[int], made: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Runs of dimensions of both shapes with equal products; dimensions of size 1 are left out."""
    left = [axis for axis, size in enumerate(given) if size != 1]
    right = [axis for axis, size in enumerate(made) if size != 1]
    groups: list[tuple[list[int], list[int]]] = []
    while left or right:
        a, b = left[:1], right[:1]
        left, right = left[1:], right[1:]
        while (size_a := math.prod(given[i] for i in a)) != (size_b := math.prod(made[i] for i in b)):
            source, group = (left, a) if size_a < size_b else (right, b)
            if not source:
                raise NoRuleError
            group.append(source.pop(0))
        groups.append((a, b))
    return groups


@rule("expand", "expand_as", "broadcast_to", "tile")
def expanded(call: Call) -> list[Any]:
    x, shape = call.value(0), call.shapes[0]
    pad = len(shape) - len(x.shape)
    padded = Value((1,) * pad + x.shape, [None] * pad + x.dims, x.origin)
    return [axiswise(padded, shape, "it is repeated")]


@rule("repeat_interleave")
def repeated(call: Call) -> list[Any]:
    x, axis, times = call.value(0), int(call.attribute("axis")), int(call.attribute("repeats"))
    dims = list(x.dims)
    term = dims[axis % len(dims)]
    if len(call.shapes[0]) != len(dims):
        raise NoRuleError
    dims[axis % len(dims)] = None if term is None else View(term, 1, times)
    return [dims]


@rule("concat")
def concat(call: Call) -> list[Any]:
    values = call.listed(0)
    axis = call.number(1) % len(call.shapes[0])
    dims = broadcast([_without(value, axis) for value in values])
    parts: list[Term] = []
    for value in values:
        term = value.dims[axis]
        parts.append(term if term is not None else Atom(value.shape[axis], f"it has the fixed size of {value.origin}"))
    joined: Term | None = parts[0] if len(parts) == 1 else Sum(tuple(parts))
    if all(value.dims[axis] is None for value in values):
        joined = None
    return [[*dims[:axis], joined, *dims[axis:]]]


@rule("stack")
def stack(call: Call) -> list[Any]:
    dims = broadcast(call.listed(0))
    axis = int(call.attribute("axis")) % len(call.shapes[0])
    return [[*dims[:axis], None, *dims[axis:]]]


def _without(value: Value, axis: int) -> Value:
    keep = [i for i in range(len(value.shape)) if i != axis]
    return Value(tuple(value.shape[i] for i in keep), [value.dims[i] for i in keep], value.origin)


@rule("split", "split_with_num")
def split_rule(call: Call) -> list[Any]:
    x = call.value(0)
    axis = call.number(len(call.inputs) - 1) % len(x.shape)
    numbers = call.value(1).numbers
    if call.op.name == "split_with_num":
        sizes = [x.shape[axis] // int(call.attribute("num"))] * int(call.attribute("num"))
    elif numbers is not None:
        known = sum(int(n) for n in numbers if n > 0)
        sizes = [int(n) if n > 0 else x.shape[axis] - known for n in numbers]
    else:
        raise NoRuleError
    term = x.dims[axis]
    parts: Sequence[Term | None] = [None] * len(sizes)
    if term is not None:
        found = split_at(term, sizes)
        if found is None:
            fix(term, "it is split where its parts do not end")
        else:
            parts = found
    return [[_part(x, axis, size, part) for size, part in zip(sizes, parts, strict=True)]]


@rule("unbind", "unstack")
def unbound(call: Call) -> list[Any]:
    x = call.value(0)
    axis = int(call.attribute("axis")) % len(x.shape)
    whole(x, [axis], "its entries are separated")
    return [[_without(x, axis) for _ in range(x.shape[axis])]]


def _part(x: Value, axis: int, size: int, term: Term | None) -> Value:
    shape, dims = list(x.shape), list(x.dims)
    shape[axis], dims[axis] = size, term
    return Value(tuple(shape), dims, x.origin)


@rule("pixel_shuffle")
def pixel_shuffle(call: Call) -> list[Any]:
    x = call.value(0)
    axis, factor = call.channels(x), int(call.attribute("upscale_factor")) ** 2
    dims: Dims = [None] * len(x.shape)
    if x.dims[axis] is not None:
        unit = Atom(x.shape[axis] // factor)
        unify(x.term(axis), View(unit, 1, factor), "its pixels do not divide it")
        dims[axis] = unit
    return [dims]


@rule("channel_shuffle", "shuffle_channel")
def channel_shuffle(call: Call) -> list[Any]:
    x = call.value(0)
    axis, groups = call.channels(x), int(call.op.attributes.get("groups") or call.attribute("group"))
    dims = list(x.dims)
    if x.dims[axis] is not None:
        unit = Atom(x.shape[axis] // groups)
        unify(x.term(axis), View(unit, groups), "its groups do not divide it")
        dims[axis] = View(unit, 1, groups)
    return [dims]
