"""Finding the axes of a model: from a family's table, or by tracing it once.

The axes have their full sizes; `with_candidates` adds the choices that converting gave the layers.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import paddle
from paddle import nn

from ofa_slim.base.examples import Example
from ofa_slim.base.modes import eval_mode
from ofa_slim.errors import ConfigError, ConvertError
from ofa_slim.supernet.axis import KERNEL, WIDTH, Axis, Fixed, Slot
from ofa_slim.supernet.coupling import Holder, couple, trace
from ofa_slim.supernet.families import find_stacks, stack_axes, weight_reason
from ofa_slim.supernet.grow import original_extent
from ofa_slim.supernet.layers import (
    Block,
    ElasticLayer,
    Owner,
    has_kernel,
    inner_layer,
    is_depthwise,
    is_parameter_role,
    own,
    parameter_roles,
)
from ofa_slim.supernet.paths import layer_at
from ofa_slim.supernet.published import choices_from
from ofa_slim.supernet.space import SearchSpace
from ofa_slim.supernet.spec import as_extent, computed_weight, entries_of, row_of, spec_of

logger = logging.getLogger(__name__)


def elastic_layers(model: nn.Layer) -> list[ElasticLayer]:
    """The elastic layers of a model.

    Raises: ConvertError where it has none.
    """
    found: list[ElasticLayer] = [
        layer for layer in model.sublayers(include_self=True) if isinstance(layer, ElasticLayer)
    ]
    if not found:
        raise ConvertError(
            f"this {type(model).__name__} is not a supernet; call Convert(supernet(...)).convert(model) first"
        )
    return found


def grown_roles(model: nn.Layer) -> dict[str, set[str]]:
    """Per layer's path, the roles that are larger than in the original model."""
    found = {
        path: {role for role, size in layer.max_sizes.items() if size != layer.original_sizes[role]}
        for path, layer in model.named_sublayers(include_self=True)
        if isinstance(layer, ElasticLayer)
    }
    return {path: roles for path, roles in found.items() if roles}


def needs_trace(model: nn.Layer) -> bool:
    """Whether finding a model's axes needs an example of its inputs."""
    return not any(isinstance(row, Axis) and row.task == WIDTH for row in _family_rows(model))


def full_space(model: nn.Layer) -> SearchSpace:
    """The axes that need no example: those of families, and kernels."""
    rows = _family_rows(model)
    axes, fixed = _without_shared(model, [row for row in rows if isinstance(row, Axis)])
    fixed = [*(row for row in rows if isinstance(row, Fixed)), *fixed]
    taken = {slot.layer for axis in axes for slot in axis.slots} | {row.layer for row in fixed}
    for path, layer in model.named_sublayers(include_self=True):
        spec = spec_of(layer)
        if path in taken or spec is None or not spec.params:
            continue
        fixed.append(Fixed(path, "its width is that of the residual stream, an input or an output"))
    return SearchSpace([*_kernel_axes(model), *axes], [*fixed, *_fixed_kernels(model)])


def traced_space(model: nn.Layer, example: Example, depth: Mapping[str, Any] | None = None) -> SearchSpace:
    """The axes of any model of elastic layers, found by tracing it in eval and in train mode at full size.

    Args:
        model: the supernet, unwrapped, running in full.
        example: inputs to trace it with.
        depth: ``{"depth": full depth}`` for a model that takes it.

    Raises: ConvertError where Paddle cannot trace the model.
    """
    holders: dict[str, list[Holder]] = {}
    for path, layer in model.named_sublayers(include_self=True):
        spec = spec_of(layer)
        if spec is None or not isinstance(layer, ElasticLayer) or isinstance(layer, Owner):
            continue
        for name in spec.params:
            parameter = getattr(layer, name, None)
            if parameter is not None:
                holders.setdefault(parameter.name, []).append(Holder(path, spec.roles(layer, name)))
    kwargs = {**example.kwargs, **(depth or {})}
    free = _not_set_anew(model, free_parameters(model, holders), example, kwargs)
    for path, name, tensor in free:
        holders.setdefault(tensor.name, []).append(Holder(path, parameter_roles(name, tensor.ndim)))
    named = [*model.named_parameters(), *model.named_buffers()]
    grown = grown_roles(model)
    try:
        programs = [trace(model, example.args, kwargs)]
    except ConvertError as error:
        if not grown:
            raise
        raise ConvertError(
            f"{error}; the choices made its layers larger ({next(iter(grown))!r} is the first), which its forward may "
            "not allow: ratios up to 1 do not change them"
        ) from error
    try:
        programs.append(trace(model, example.args, kwargs, training=True))
    except ConvertError as error:  # in train mode it needs labels, for example
        logger.warning("widths agree as in eval mode alone; with the same inputs in train mode, %s", error)
    layers: dict[str, Any] = dict(model.named_sublayers(include_self=True))
    axes, fixed = couple(programs, holders, {tensor.name: path for path, tensor in named}, grown)
    owners = {slot.layer for axis in axes for slot in axis.slots if is_parameter_role(slot.role)}
    for path in owners:
        own(layers[path], [name for at, name, _ in free if at == path])
    axes = [_with_original(axis, layers) for axis in axes]
    for path, layer in layers.items():
        computed = None if isinstance(layer, Owner) else computed_weight(layer)
        if computed is not None:
            fixed.append(Fixed(path, weight_reason(computed)))
    return SearchSpace([*_kernel_axes(model), *axes], [*fixed, *_fixed_kernels(model)], _layouts(axes, layers))


def free_parameters(model: nn.Layer, holders: Mapping[str, Sequence[Holder]]) -> list[tuple[str, str, paddle.Tensor]]:
    """The parameters and buffers that layers of the user's own classes hold, ``(path of the layer, name, tensor)``.

    Args:
        model: the supernet.
        holders: by the name of a parameter, the elastic layers that hold it; those are left out.
    """
    found = []
    for path, layer in model.named_sublayers(include_self=True):
        kind = row_of(layer).plain if isinstance(layer, Owner) else type(layer)
        if isinstance(layer, Owner) or (spec_of(layer) is None and _is_users(kind)):
            own_tensors = {**layer._parameters, **layer._buffers}
            found += [
                (path, name, tensor)
                for name, tensor in own_tensors.items()
                if tensor is not None and tensor.ndim and tensor.name not in holders
            ]
    return found


def _not_set_anew(
    model: nn.Layer, free: list[tuple[str, str, paddle.Tensor]], example: Example, kwargs: Mapping[str, Any]
) -> list[tuple[str, str, paddle.Tensor]]:
    """Those of `free_parameters` without the buffers that a forward replaces, as weight norm does: none has a part."""
    layers = dict(model.named_sublayers(include_self=True))
    if any(name in layers[path]._buffers for path, name, _ in free):
        with suppress(Exception), eval_mode(model), paddle.no_grad():  # tracing says what is wrong
            model(*example.args, **kwargs)
    return [(path, name, tensor) for path, name, tensor in free if layers[path]._buffers.get(name, tensor) is tensor]


def _is_users(kind: type[nn.Layer]) -> bool:
    return kind is nn.ParameterList or kind.__module__.partition(".")[0] != "paddle"


def _with_original(axis: Axis, layers: Mapping[str, Any]) -> Axis:
    """The axis with its size before the model was made larger, and the size that a ratio of 1 means.

    Raises: ConvertError where its layers grew differently, or a ratio means different widths for them.
    """
    sizes, shares = {}, {}
    for slot in axis.slots:
        layer = layers[slot.layer]
        was, now = layer.original_sizes[slot.role], layer.max_sizes[slot.role]
        # Where a role has several axes, each is assumed to have grown by the same ratio.
        sizes[slot.layer] = axis.size * was // now
        if slot.is_output and "expand_ratio" in layer.candidate_config:
            shares[slot.layer] = axis.size * layer.share_width // layer.max_sizes["out"]
    if len(set(sizes.values())) > 1:
        raise ConvertError(f"axis {axis.name!r}: its layers grew differently: {sizes} of {axis.size}")
    if len(set(shares.values())) > 1:
        raise ConvertError(f"axis {axis.name!r}: an expand_ratio of 1 is not the same width for its layers: {shares}")
    original = next(iter(sizes.values()))
    share = next(iter(shares.values()), original)
    return replace(axis, original=original, one_share=share, choices=(original,) if axis.fixed_reason else axis.choices)


def _layouts(axes: Sequence[Axis], layers: Mapping[str, Any]) -> dict[tuple[str, str], list[int]]:
    """Where larger layers store each entry: those of the original model come first, in the order of the slots."""
    slots: dict[tuple[str, str], list[tuple[Axis, Slot]]] = {}
    for axis in axes:
        for slot in axis.slots:
            slots.setdefault((slot.layer, slot.role), []).append((axis, slot))
    layouts = {}
    for (path, role), found in slots.items():
        layer = layers[path]
        was, now = layer.original_sizes[role], layer.max_sizes[role]
        if was == now:
            continue
        own = entries_of(as_extent(part for axis, slot in found for part in slot.ranges(axis.original)))
        places = entries_of(original_extent(layer, role, was, now))
        if len(own) != len(places):
            raise ConvertError(f"{path}: {len(own)} of its {role}puts are those of the model, which had {len(places)}")
        layout = dict(zip(own, places, strict=True))
        rest = iter(sorted(set(range(now)) - set(places)))
        order = [layout[entry] if entry in layout else next(rest) for entry in range(now)]
        if order != list(range(now)):
            layouts[path, role] = order
    return layouts


def with_candidates(model: nn.Layer, space: SearchSpace) -> SearchSpace:
    """The same axes with the choices that converting gave their layers.

    Raises: ConfigError where layers that must agree have no choice in common.
    """
    choices: dict[str, tuple[int, ...]] = {}
    for axis in space.axes:
        if axis.fixed_reason:
            continue
        common: set[int] | None = None
        for slot in axis.slots:
            layer = layer_at(model, slot.layer)
            spec = spec_of(layer)
            candidates = getattr(layer, "candidate_config", {})
            if spec is None or spec.follows or not (slot.is_output or slot.role == "kernel"):
                continue
            found = choices_from(axis, slot, candidates)
            if found is not None:
                common = set(found) if common is None else common & set(found)
        if common is not None and not common:
            layers = ", ".join(dict.fromkeys(slot.layer for slot in axis.slots if slot.is_output))
            raise ConfigError(f"axis {axis.name!r}: the layers on it have no choice in common ({layers})")
        choices[axis.name] = tuple(common) if common else (axis.full,)
    return space.with_choices(choices)


def fixed_by_blocks(model: nn.Layer, space: SearchSpace) -> SearchSpace:
    """The space with the widths and kernels of layers in a fixed `Block` at full size."""
    fixed = fixed_layers(model)
    reasons = {}
    for axis in space.axes:
        for slot in axis.slots:
            layer = layer_at(model, slot.layer)
            # A depthwise convolution has the width of its input, which is not its own.
            own = slot.role == "kernel" or (slot.is_output and not (has_kernel(layer) and is_depthwise(layer)))
            if own and layer in fixed:
                reasons[axis.name] = f"the Block of {slot.layer!r} is fixed"
    return without(space, reasons)


def fixed_layers(model: nn.Layer) -> set[nn.Layer]:
    """The layers in a fixed `Block`."""
    return {
        inner_layer(layer) for layer in model.sublayers(include_self=True) if isinstance(layer, Block) and layer.fixed
    }


def without(space: SearchSpace, reasons: Mapping[str, str]) -> SearchSpace:
    """The space with some axes fixed, ``{axis name: reason}``."""
    axes = [
        replace(axis, fixed_reason=reasons[axis.name], choices=(axis.original,)) if axis.name in reasons else axis
        for axis in space.axes
    ]
    fixed = [
        Fixed(layer, reasons[axis.name])
        for axis in space.axes
        if axis.name in reasons
        for layer in dict.fromkeys(slot.layer for slot in axis.slots if slot.is_output)
    ]
    return space.replaced(axes, [*space.fixed, *fixed])


def _family_rows(model: nn.Layer) -> list[Axis | Fixed]:
    return [row for stack in find_stacks(model) for row in stack_axes(model, stack)]


def _without_shared(model: nn.Layer, axes: Sequence[Axis]) -> tuple[list[Axis], list[Fixed]]:
    """The axes of which no layer is also elsewhere in the model; a layer has one size wherever it is called.

    An attention, or a block, that is at several places as a whole has one axis.
    """
    counts = _counted_places(model)
    kept: dict[frozenset[tuple[int, str, int]], Axis] = {}
    fixed: list[Fixed] = []
    for axis in axes:
        paths = [slot.layer for slot in axis.slots]
        around = _common_path(paths)
        shared = next((path for path in paths if counts.get(path, 1) != counts.get(around, 1)), None)
        if shared is not None:
            fixed += [Fixed(path, f"layer {shared!r} is also elsewhere in the model") for path in dict.fromkeys(paths)]
            continue
        parts = frozenset((id(layer_at(model, slot.layer)), slot.role, slot.unit) for slot in axis.slots)
        first = kept.setdefault(parts, axis)
        if first is not axis:
            fixed += [Fixed(path, f"it is on axis {first.name!r}, under another name") for path in dict.fromkeys(paths)]
    return list(kept.values()), fixed


def _counted_places(model: nn.Layer) -> dict[str, int]:
    """At how many places the layer at each path is."""
    paths = {""}
    for key in model.state_dict():  # names a shared parameter at each place; `named_sublayers` names a layer once
        parts = key.split(".")[:-1]
        paths.update(".".join(parts[: count + 1]) for count in range(len(parts)))
    layers: dict[str, int] = {}
    for path in paths:
        with suppress(AttributeError):  # a part of a name with a dot
            layers[path] = id(layer_at(model, path))
    counts = Counter(layers.values())
    return {path: counts[layer] for path, layer in layers.items()}


def _common_path(paths: Sequence[str]) -> str:
    """The longest path that all paths begin with."""
    common = []
    for parts in zip(*(path.split(".") for path in paths), strict=False):
        if len(set(parts)) > 1:
            break
        common.append(parts[0])
    return ".".join(common)


def _kernel_axes(model: nn.Layer) -> list[Axis]:
    """An axis for every elastic kernel."""
    axes = []
    for path, layer in model.named_sublayers(include_self=True):
        if not isinstance(layer, ElasticLayer) or KERNEL not in layer.candidate_config:
            continue
        size = layer.max_sizes["kernel"]
        slot = Slot(path, "kernel", centred=size)
        name, original = f"{path}.kernel_size" if path else KERNEL, layer.original_sizes["kernel"]
        axes.append(Axis(name, size, (size,), (slot,), task=KERNEL, original=original))
    return axes


def _fixed_kernels(model: nn.Layer) -> list[Fixed]:
    return [
        Fixed(path, layer.fixed_kernel)
        for path, layer in model.named_sublayers(include_self=True)
        if isinstance(layer, ElasticLayer) and layer.fixed_kernel
    ]
