"""What each operation says about the dimensions of what it takes and makes.

A rule gets the values that an operation takes and returns, for each value it makes, the terms of its
dimensions (None: a dimension that no width changes). An operation without a rule keeps whatever flows into
it at full width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ofa_slim.supernet.coupling.program import Op
from ofa_slim.supernet.coupling.terms import Atom, Sum, Term, View, fix, size_of, split, split_at, unify

Dims = list[Term | None]


@dataclass
class Value:
    """A tensor of the traced program.

    Attributes:
        shape: at full size.
        dims: per dimension, the term that says which entries take part.
        origin: what to call it where its fixed size is a reason.
        numbers: its content, for a constant list of numbers.
    """

    shape: tuple[int, ...]
    dims: Dims
    origin: str
    numbers: tuple[float, ...] | None = None

    def term(self, axis: int) -> Term:
        """The term of a dimension that has one."""
        found = self.dims[axis]
        if found is None:
            raise NoRuleError
        return found


@dataclass
class Call:
    """One operation with the values it takes and the shapes it makes."""

    op: Op
    inputs: list[Value | list[Value] | None]
    shapes: list[tuple[int, ...]] = field(default_factory=list)

    def value(self, index: int) -> Value:
        """A tensor that it takes."""
        found = self.inputs[index]
        if not isinstance(found, Value):
            raise NoRuleError
        return found

    def given(self, index: int) -> Value | None:
        """A tensor that it may take."""
        return self.value(index) if index < len(self.inputs) and self.inputs[index] is not None else None

    def listed(self, index: int) -> list[Value]:
        """A list of tensors that it takes."""
        found = self.inputs[index]
        if not isinstance(found, list):
            raise NoRuleError
        return found

    def number(self, index: int) -> int:
        """A constant number that it takes."""
        numbers = self.value(index).numbers
        if numbers is None or len(numbers) != 1:
            raise NoRuleError
        return int(numbers[0])

    def attribute(self, name: str) -> Any:
        """One of its settings."""
        if name not in self.op.attributes:
            raise NoRuleError
        return self.op.attributes[name]

    def channels(self, value: Value) -> int:
        """The channel dimension of a value, by the data format."""
        layout = str(self.op.attributes.get("data_format", "NCHW"))
        return 1 if layout.startswith("NC") or layout == "AnyLayout" else len(value.shape) - 1


class NoRuleError(Exception):
    """The operation is used in a way that its rule does not know."""


Rule = Callable[[Call], list[Any]]
RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Registers a rule under the names of operations."""

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
        unify(a, b, "its width meets one that is put together in another way")
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
    """Dimensions that keep their size keep their term; others were cut, padded or resampled."""
    if len(value.shape) != len(shape):
        raise NoRuleError
    whole(value, [axis for axis, size in enumerate(shape) if size != value.shape[axis]], why)
    return [dim if value.shape[axis] == shape[axis] else None for axis, dim in enumerate(value.dims)]


@rule(
    "relu", "relu6", "sigmoid", "tanh", "gelu", "silu", "swish", "hardswish", "hardsigmoid", "leaky_relu", "elu",
    "selu", "celu", "mish", "softplus", "softsign", "tanh_shrink", "hardtanh", "hard_shrink", "softshrink",
    "thresholded_relu", "logsigmoid", "stanh", "exp", "expm1", "log", "log2", "log10", "log1p", "sqrt", "rsqrt",
    "square", "abs", "sin", "cos", "tan", "erf", "floor", "ceil", "round", "sign", "reciprocal", "cast", "scale",
    "clip", "dropout", "assign", "assign_out", "pow", "negative", "logical_not", "isnan", "isinf", "isfinite",
    "full_like", "memcpy", "softmax", "log_softmax", "increment", "share_data", "fetch", "shadow_output",
)  # fmt: skip
def unary(call: Call) -> list[Any]:
    value = call.value(0)
    return [list(value.dims) if len(shape) == len(value.shape) else [None] * len(shape) for shape in call.shapes]


@rule(
    "add", "subtract", "multiply", "divide", "maximum", "minimum", "fmax", "fmin", "elementwise_pow", "remainder",
    "floor_divide", "where", "equal", "not_equal", "less_than", "less_equal", "greater_than", "greater_equal",
    "logical_and", "logical_or", "logical_xor", "bitwise_and", "bitwise_or", "lerp",
)  # fmt: skip
def elementwise(call: Call) -> list[Any]:
    return [broadcast([call.value(i) for i in range(len(call.inputs))])]


@rule("add_n")
def add_n(call: Call) -> list[Any]:
    return [broadcast(call.listed(0))]


@rule("conv2d", "depthwise_conv2d", "conv3d")
def convolution(call: Call) -> list[Any]:
    x, weight = call.value(0), call.value(1)
    axis, groups = call.channels(x), int(call.attribute("groups"))
    dims: Dims = [None] * len(call.shapes[0])
    dims[axis] = weight.dims[0]
    if groups == 1:
        agree(x, axis, weight, 1)
    elif weight.shape[1] == 1:
        _follow(x, axis, weight, 0, call.shapes[0][axis] // groups)
    else:
        _per_group(x, axis, weight, 1, groups)
        _grouped(weight.dims[0], groups)
    return [dims]


@rule("conv2d_transpose", "depthwise_conv2d_transpose", "conv2d_transpose_bias", "conv3d_transpose")
def transposed_convolution(call: Call) -> list[Any]:
    x, weight = call.value(0), call.value(1)
    axis, groups = call.channels(x), int(call.attribute("groups"))
    dims: Dims = [None] * len(call.shapes[0])
    agree(x, axis, weight, 0)
    made = weight.dims[1]
    if groups == 1:
        dims[axis] = made
    elif weight.shape[0] == groups:
        whole(weight, [1], "each group has several outputs")
        if weight.dims[0] is not None:
            dims[axis] = View(weight.dims[0], 1, weight.shape[1])
    else:
        _grouped(weight.dims[0], groups)
        dims[axis] = None if made is None else View(made, groups)
    return [dims]


def _follow(x: Value, axis: int, weight: Value, dim: int, each: int) -> None:
    """A convolution with one group per input channel has `each` outputs for each of them."""
    given, own = x.dims[axis], weight.dims[dim]
    if given is not None and own is not None:
        unify(own, View(given, 1, each), "a depthwise convolution's channels meet others")
    elif given is not None:
        fix(given, f"it meets the fixed size of {weight.origin}")
    elif own is not None:
        fix(own, f"a depthwise convolution has the channels of {x.origin}")


def _per_group(x: Value, axis: int, weight: Value, dim: int, groups: int) -> None:
    """The channels that come in are those of each group, one group behind the other."""
    given, own = x.dims[axis], weight.dims[dim]
    if given is not None and own is not None:
        unify(given, View(own, groups), "a grouped convolution meets channels that its groups do not divide")
    elif given is not None:
        fix(given, f"it meets the fixed size of {weight.origin}")
    elif own is not None:
        fix(own, f"it meets the fixed size of {x.origin}")


def _grouped(term: Term | None, groups: int) -> None:
    if term is not None:
        unify(term, View(Atom(size_of(term) // groups), groups), "its groups do not divide it")


@rule("matmul", "bmm")
def matmul(call: Call) -> list[Any]:
    x, y = call.value(0), call.value(1)
    if min(len(x.shape), len(y.shape)) < 2:
        raise NoRuleError
    turned_x, turned_y = (bool(call.op.attributes.get(name)) for name in ("transpose_x", "transpose_y"))
    agree(x, -2 if turned_x else -1, y, -1 if turned_y else -2)
    batch = broadcast([Value(v.shape[:-2], v.dims[:-2], v.origin) for v in (x, y)]) if len(call.shapes[0]) > 2 else []
    return [[*batch, x.dims[-1 if turned_x else -2], y.dims[-2 if turned_y else -1]]]


@rule("einsum")
def einsum(call: Call) -> list[Any]:
    given, _, made = str(call.attribute("equation")).replace(" ", "").partition("->")
    named: dict[str, tuple[Value, int]] = {}
    for labels, value in zip(given.split(","), call.listed(0), strict=True):
        if len(labels) != len(value.shape) or len(set(labels)) != len(labels):
            raise NoRuleError  # an ellipsis, or a diagonal
        for axis, label in enumerate(labels):
            if label in named:
                agree(*named[label], value, axis)
            if label not in named or value.shape[axis] != 1:
                named[label] = (value, axis)
    if len(made) != len(call.shapes[0]) or not set(made) <= set(named):
        raise NoRuleError
    dims = [named[label][0].dims[named[label][1]] for label in made]
    return [dims, *[[None] * len(shape) for shape in call.shapes[1:]]]


@rule("embedding")
def embedding(call: Call) -> list[Any]:
    ids, table = call.value(0), call.value(1)
    whole(table, [0], "it is the rows of a table")
    return [[*ids.dims, table.dims[1]]]


@rule("batch_norm", "sync_batch_norm", "instance_norm", "group_norm", "prelu")
def channel_norm(call: Call) -> list[Any]:
    x = call.value(0)
    axis = call.channels(x)
    groups = int(call.op.attributes.get("groups", 1))
    if groups > 1:
        _grouped(x.dims[axis], groups)
    for index in range(1, len(call.inputs)):
        parameter = call.given(index)
        if parameter is not None:
            agree(x, axis, parameter, 0)
    return [list(x.dims), *[[None] * len(shape) for shape in call.shapes[1:]]]


@rule("layer_norm")
def layer_norm(call: Call) -> list[Any]:
    x, first = call.value(0), int(call.attribute("begin_norm_axis"))
    last = len(x.shape) - 1
    for index in (1, 2):
        parameter = call.given(index)
        if parameter is None:
            continue
        if first == last:
            agree(x, last, parameter, 0)
        else:
            reason = "a layer norm over several dimensions has one weight per entry"
            whole(x, range(first, len(x.shape)), reason)
            whole(parameter, [0], reason)
    return [list(x.dims), *[[None] * len(shape) for shape in call.shapes[1:]]]


@rule(
    "pool2d", "pool3d", "lp_pool2d", "max_pool2d_with_index", "max_pool3d_with_index", "bilinear_interp",
    "nearest_interp", "bicubic_interp", "linear_interp", "trilinear_interp", "pad", "pad3d", "strided_slice",
)  # fmt: skip
def resampled(call: Call) -> list[Any]:
    return [axiswise(call.value(0), shape, f"{call.op.name} changes how many there are") for shape in call.shapes]


@rule("slice")
def sliced(call: Call) -> list[Any]:
    x = call.value(0)
    dropped = {axis % len(x.shape) for axis in call.op.attributes.get("decrease_axis", [])}
    whole(x, dropped, "one entry of it is taken")
    left = [axis for axis in range(len(x.shape)) if axis not in dropped]
    rest = Value(tuple(x.shape[axis] for axis in left), [x.dims[axis] for axis in left], x.origin)
    return [axiswise(rest, call.shapes[0], "a part of it is taken")]


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
    whole(x, [axis % len(x.shape) for axis in axes], "the order of its entries counts")
    return [list(x.dims) for _ in call.shapes]


@rule("mean", "sum", "max", "min", "prod", "any", "all", "amax", "amin", "logsumexp", "p_norm", "argmax", "argmin",
      "frobenius_norm")  # fmt: skip
def reduced(call: Call) -> list[Any]:
    x, shape = call.value(0), call.shapes[0]
    if "axis" in call.op.attributes:
        axes = call.op.attributes["axis"]
    elif len(call.inputs) > 1 and call.value(1).numbers is not None:
        axes = [int(number) for number in call.value(1).numbers or ()]
    else:
        raise NoRuleError
    axes = {axis % len(x.shape) for axis in ([axes] if isinstance(axes, int) else axes)} or set(range(len(x.shape)))
    if call.op.name.startswith("arg"):
        whole(x, axes, "the place of an entry is taken")
    if len(shape) == len(x.shape):
        return [[None if axis in axes else dim for axis, dim in enumerate(x.dims)]]
    return [[dim for axis, dim in enumerate(x.dims) if axis not in axes][: len(shape)]]


@rule("mean_all", "numel", "shape", "shape64")
def counted(call: Call) -> list[Any]:
    return [[None] * len(shape) for shape in call.shapes]


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
        if len(made) == 1:
            dims[made[0]] = merged
        elif before * after == 1:
            # Heads of a sequence come first among their channels, groups of a map are cut each for itself.
            kept = made[0] if made[-1] == len(shape) - 1 else made[1]
            outer = math.prod(shape[axis] for axis in made if axis < kept)
            inner = math.prod(shape[axis] for axis in made if axis > kept)
            unit = Atom(shape[kept])
            unify(merged, View(unit, outer, inner), "it is reshaped into parts that do not divide it")
            dims[kept] = unit
        else:
            whole(x, terms, "it is reshaped across its neighbours")
    return [dims, *[[None] * len(extra) for extra in call.shapes[1:]]]


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


@rule("concat")
def concat(call: Call) -> list[Any]:
    values = call.listed(0)
    axis = call.number(1) % len(call.shapes[0])
    dims = broadcast([_without(value, axis) for value in values])
    parts: list[Term] = []
    for value in values:
        term = value.dims[axis]
        parts.append(term if term is not None else Atom(value.shape[axis], f"it has the fixed size of {value.origin}"))
    joined = (
        None
        if all(value.dims[axis] is None for value in values)
        else parts[0]
        if len(parts) == 1
        else Sum(tuple(parts))
    )
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
def splitted(call: Call) -> list[Any]:
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
        found = split(term, len(sizes)) if call.op.name == "split_with_num" else split_at(term, sizes)
        if found is None:
            fix(term, "it is split where its parts do not end")
        else:
            parts = found
    return [[_part(x, axis, size, part) for size, part in zip(sizes, parts, strict=True)]]


@rule("unbind", "unstack")
def unbound(call: Call) -> list[Any]:
    x = call.value(0)
    axis = int(call.attribute("axis")) % len(x.shape)
    whole(x, [axis], "its entries are taken apart")
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


def constant(attributes: Mapping[str, Any]) -> tuple[float, ...] | None:
    """The numbers of an operation that makes a constant list of them."""
    value = attributes.get("value")
    if isinstance(value, (int, float)):
        return (value,)
    return tuple(value) if isinstance(value, (list, tuple)) and len(value) <= 64 else None
