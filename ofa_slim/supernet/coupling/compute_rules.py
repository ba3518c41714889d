"""Rules of operations that compute: elementwise, convolutions, products, norms, pooling and reductions."""

from __future__ import annotations

from typing import Any

from ofa_slim.supernet.coupling.calls import Call, Dims, NoRuleError, Value, agree, axiswise, broadcast, rule, whole
from ofa_slim.supernet.coupling.terms import Atom, Term, View, fix, size_of, unify


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
    """A convolution with one group per input channel has `each` outputs per input channel."""
    given, own = x.dims[axis], weight.dims[dim]
    if given is not None and own is not None:
        unify(own, View(given, 1, each), "a depthwise convolution has other channels than its input")
    elif given is not None:
        fix(given, f"it meets the fixed size of {weight.origin}")
    elif own is not None:
        fix(own, f"a depthwise convolution has the channels of {x.origin}")


def _per_group(x: Value, axis: int, weight: Value, dim: int, groups: int) -> None:
    """The input channels are those of each group, one group after the other."""
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
        parameter = call.optional(index)
        if parameter is not None:
            agree(x, axis, parameter, 0)
    return [list(x.dims), *[[None] * len(shape) for shape in call.shapes[1:]]]


@rule("layer_norm")
def layer_norm(call: Call) -> list[Any]:
    x, first = call.value(0), int(call.attribute("begin_norm_axis"))
    last = len(x.shape) - 1
    for index in (1, 2):
        parameter = call.optional(index)
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
    "nearest_interp", "bicubic_interp", "linear_interp", "trilinear_interp", "pad", "pad3d",
)  # fmt: skip
def resampled(call: Call) -> list[Any]:
    return [axiswise(call.value(0), shape, f"{call.op.name} changes how many there are") for shape in call.shapes]


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
        whole(x, axes, "the position of an entry is returned")
    if len(shape) == len(x.shape):
        return [[None if axis in axes else dim for axis, dim in enumerate(x.dims)]]
    return [[dim for axis, dim in enumerate(x.dims) if axis not in axes][: len(shape)]]


@rule("mean_all", "numel", "shape", "shape64")
def counted(call: Call) -> list[Any]:
    return [[None] * len(shape) for shape in call.shapes]
