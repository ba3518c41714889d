"""Making layers larger than they are, so that a supernet holds networks larger than the model.

The model's weights become the leading entries of each role, of each group where there are groups, and the
centre of a kernel. The sub-network of the original size does not read the other entries; they start at random
(weights) or neutral (biases, scales, statistics).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import paddle
from paddle import nn

from ofa_slim.errors import ConvertError
from ofa_slim.supernet.layers.conv_base import is_depthwise
from ofa_slim.supernet.layers.kernels import centre, elastic_kernels, has_kernel, widen_padding
from ofa_slim.supernet.spec import (
    Extent,
    channels_of,
    entries_of,
    leading_of_each,
    parameter_like,
    row_of,
)

Chosen = Sequence[tuple[str, nn.Layer]]


def grown_by_ratio(layers: Chosen, ratio: float) -> dict[str, dict[str, int]]:
    """The sizes of the roles of each layer when all inner widths grow by a ratio above 1.

    The inputs of the first layer with weights and the outputs of the last one stay, and so do norms before
    and after them. `layers` are those that can be elastic, in definition order.

    Raises: ConvertError for a width that cannot grow by this ratio.
    """
    first, last = _ends(layers)
    sizes = {}
    for place, (path, layer) in enumerate(layers):
        full = row_of(layer).full_sizes(layer)
        new: dict[str, int] = {}
        for role in ("in", "out"):
            inside = (place > first or (place == first and role == "out")) and (
                place < last or (place == last and role == "in")
            )
            if role in full and inside:
                new[role] = _times(path, layer, role, full[role], ratio)
        sizes[path] = _with_group(layer, new)
    return sizes


def grown_to_channels(layers: Chosen, channels: Mapping[str, Sequence[int]]) -> dict[str, dict[str, int]]:
    """The sizes of the roles of each layer when some get more output channels than they have.

    Without a trace the layers count as a chain in definition order: the output of each is the input of the next.

    Args:
        layers: the layers that can be elastic with their paths, in definition order.
        channels: choices of output channels by path.

    Raises: ConvertError where a layer's input does not match the output of the one before it.
    """
    sizes: dict[str, dict[str, int]] = {}
    made = grown = 0  # the outputs of the layer before: as they are, and as they will be
    for path, layer in layers:
        full = row_of(layer).full_sizes(layer)
        new: dict[str, int] = {}
        if row_of(layer).follows or ("in" not in full and "rows" not in full):
            if grown > made and full.get("out") == made:
                new["out"] = grown
            sizes[path] = new
            continue
        if has_kernel(layer) and is_depthwise(layer):  # one group for each input channel, so it grows with its input
            times, rest = divmod(full["out"], made) if made else (1, 0)
            if rest:
                raise ConvertError(f"channel: {path!r} has {full['out']} outputs, which do not follow from {made}")
            made, grown = full["out"], max(full["out"], grown * times)
            if grown > made:
                new.update(_depthwise_sizes(full, grown // times, times))
            sizes[path] = new
            continue
        if grown > made and "in" in full:
            if full["in"] % made:
                raise ConvertError(f"channel: {path!r} has {full['in']} inputs, which do not follow from {made}")
            new["in"] = full["in"] // made * grown
        made, grown = full["out"], max(full["out"], *channels.get(path, (0,)))
        if grown > made:
            new["out"] = grown
        sizes[path] = _with_group(layer, new)
    return sizes


def _with_group(layer: nn.Layer, sizes: dict[str, int]) -> dict[str, int]:
    """The sizes with the outputs of one group, which some layers' weights have in place of all outputs."""
    if "out" in sizes and "group_out" in row_of(layer).full_sizes(layer) and not is_depthwise(layer):
        return {**sizes, "group_out": sizes["out"] // getattr(layer, "_groups", 1)}
    return sizes


def grow(layer: nn.Layer, sizes: Mapping[str, int]) -> None:
    """Makes a plain layer of a registered class larger in place; its parameters are replaced.

    Args:
        layer: the layer.
        sizes: the new size of each role, at least the old; roles left out stay.
    """
    spec = row_of(layer)
    old = spec.full_sizes(layer)
    kernel = sizes.get("kernel", old.get("kernel", 1))
    for name in spec.params:
        parameter = getattr(layer, name, None)
        roles = spec.roles(layer, name)
        if parameter is None or all(sizes.get(role, 0) <= old[role] for role in roles):
            continue
        shape = [max(sizes.get(role, 0), old[role]) for role in roles]
        places = [original_extent(layer, role, old[role], size) for role, size in zip(roles, shape, strict=True)]
        with paddle.no_grad():
            value = _embedded(parameter, shape, places, spec.neutral.get(name, 0.0))
            setattr(layer, name, parameter_like(layer, parameter, value))
    if "kernel" in sizes and kernel != old["kernel"]:
        widen_padding(layer, old["kernel"], kernel)
    for role, attribute in spec.sizes.items():
        if role in sizes:
            setattr(layer, attribute, [sizes[role]] if isinstance(getattr(layer, attribute), list) else sizes[role])
    if spec.cut is not None:
        spec.cut(layer, {role: size for role, size in sizes.items() if role != "kernel"})


def _embedded(
    parameter: paddle.Tensor, shape: Sequence[int], places: Sequence[Extent], neutral: float
) -> paddle.Tensor:
    """A larger tensor with a parameter's values at their places; new entries of a vector are `neutral`."""
    values = parameter.astype("float32").numpy()
    if parameter.ndim == 1:
        larger = np.full(shape, neutral, dtype="float32")
    else:
        larger = (paddle.randn(shape, dtype="float32") * float(values.std())).numpy()
    larger[np.ix_(*map(entries_of, places))] = values
    return paddle.to_tensor(larger, place=parameter.place).astype(parameter.dtype)


def original_extent(layer: nn.Layer, role: str, old: int, new: int) -> Extent:
    """Where the old entries of a role are among the new ones."""
    if role == "kernel":
        return centre(old, new)
    groups = getattr(layer, "_groups", 1)
    if role == "out" and groups > 1 and not is_depthwise(layer):
        return leading_of_each(old // groups, new // groups, groups)
    return old


def kernels_when_grown(conv: nn.Layer, choices: Sequence[int]) -> tuple[int, ...]:
    """Which kernel sizes a convolution can have once its kernel has grown to the largest of them, ascending.

    Its padding grows with the kernel, so only sizes below the present one may need more padding than there is.
    """
    own = conv._kernel_size[0]
    return tuple(sorted({size for size in choices if size >= own or elastic_kernels(conv, (size, own))[:1] == (size,)}))


def last_with_width(layers: Chosen) -> str:
    """The path of the last layer with a width of its own; "" where there is none."""
    last = _ends(layers)[1]
    return layers[last][0] if last < len(layers) else ""


def _ends(layers: Chosen) -> tuple[int, int]:
    """The places of the first and the last layer with a width of their own; those after the end where there is none.

    A depthwise convolution has the width of its input, so one that comes before all others cannot grow.
    """
    own = [
        place
        for place, (_, layer) in enumerate(layers)
        if not row_of(layer).follows and row_of(layer).width and not (has_kernel(layer) and is_depthwise(layer))
    ]
    return (own[0], own[-1]) if own else (len(layers), len(layers))


def _times(path: str, layer: nn.Layer, role: str, size: int, ratio: float) -> int:
    groups = getattr(layer, "_groups", 1)
    grown = channels_of(ratio, size)
    if groups > 1 and is_depthwise(layer):
        channels, times = channels_of(ratio, layer._in_channels), layer._out_channels // groups
        return _depthwise_sizes(row_of(layer).full_sizes(layer), channels, times).get(role, size)
    if role == "out" and groups > 1 and not is_depthwise(layer) and grown % groups:
        raise ConvertError(
            f"expand_ratio {ratio}: {path!r} would have {grown} channels, which its {groups} groups do not divide"
        )
    return grown


def _depthwise_sizes(full: Mapping[str, int], channels: int, times: int) -> dict[str, int]:
    """The sizes of a depthwise convolution of some channels, each of which makes `times` outputs."""
    # The weight of a transposed one has a row for each input, that of any other a row for each output.
    inputs = {"in": channels} if "group_out" in full else {}
    return {**inputs, "out": channels * times}
