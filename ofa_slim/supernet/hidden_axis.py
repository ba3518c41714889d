"""The hidden size as an axis: embeddings, residual stream, norms, pooler and their readers, found by tracing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from paddle import nn

from ofa_slim.base.examples import Example, random_example
from ofa_slim.errors import ConfigError, ConvertError
from ofa_slim.supernet.axis import HIDDEN, Axis
from ofa_slim.supernet.discover import traced_space
from ofa_slim.supernet.families import Stack, find_stacks, max_sizes, stream_writers
from ofa_slim.supernet.handle import Supernet
from ofa_slim.supernet.mending import failure_of, smallest_tried
from ofa_slim.supernet.paths import layer_at
from ofa_slim.supernet.space import SearchSpace


def stream_layers(model: nn.Layer) -> dict[str, nn.Layer]:
    """The layers of known families that write into a residual stream, by path."""
    return {path: layer_at(model, path) for stack in find_stacks(model) for path in stream_writers(stack)}


def stream_choices(model: nn.Layer, sizes: Sequence[int]) -> dict[str, dict[str, tuple[int, ...]]]:
    """The candidate configuration of each layer that writes into a residual stream.

    Raises: ConvertError where the model has none, or a size is not between 1 and its own.
    """
    layers = stream_layers(model)
    if not layers:
        raise ConvertError(
            f"hidden_size: this {type(model).__name__} has no stack of blocks of a known family; the widths of other "
            "models are elastic by expand_ratio"
        )
    for path, layer in layers.items():
        full = (max_sizes(layer) or {}).get("out", 0)
        for size in sizes:
            if size > full:
                raise ConvertError(f"hidden_size {size} is more than the {full} of {path!r}")
    return {path: {"channel": tuple(sizes)} for path in layers}


def has_hidden_choices(model: nn.Layer) -> bool:
    """Whether converting gave a model choices of its hidden size."""
    return any("channel" in getattr(layer, "candidate_config", {}) for layer in stream_layers(model).values())


def with_hidden(model: nn.Layer, space: SearchSpace, example: Example | None, depth: Mapping[str, Any]) -> SearchSpace:
    """The space with an axis for each hidden size, at its full size; stacks whose outputs are added share one.

    Args:
        model: the supernet, unwrapped, running in full.
        space: its other axes.
        example: inputs to trace it with; None: random token ids.
        depth: ``{"depth": full depth}`` for a model that takes it.

    Raises: ConfigError where the hidden size cannot be elastic, with the reason; ConvertError where Paddle cannot trace
        the model.
    """
    traced = traced_space(model, example or _token_ids(model, depth), depth)
    streams: dict[str, tuple[Stack, Axis]] = {}
    for stack in find_stacks(model):
        axis = _hidden_axis(stack, traced)
        streams.setdefault(axis.name, (stack, axis))
    axes = []
    for stack, axis in streams.values():
        name = HIDDEN if len(streams) == 1 else f"{stack.name}.{HIDDEN}"
        axes.append(_followed(replace(axis, name=name, task=HIDDEN, one_share=0), traced, space))
    ours = {(slot.layer, slot.role) for axis in axes for slot in axis.slots}
    fixed = [row for row in space.fixed if not any(layer == row.layer for layer, _ in ours)]
    return space.replaced([*space.axes, *axes], fixed)


def check_hidden(model: nn.Layer, space: SearchSpace, example: Example | None) -> None:
    """Runs a model at its smallest hidden sizes; raises `ConfigError` where its forward fails there."""
    axes = [axis for axis in space.axes if axis.task == HIDDEN]
    supernet = Supernet(model, space)
    depth = supernet.forward_arguments(space.largest())
    error = failure_of(supernet, axes, example or _token_ids(model, depth))
    if error is not None:
        raise ConfigError(f"hidden_size: the model's forward fails at {smallest_tried(axes[0])}: {error}")


def _hidden_axis(stack: Stack, traced: SearchSpace) -> Axis:
    writers = stream_writers(stack)
    found = [axis for axis in traced.axes if any(slot.is_output and slot.layer in writers for slot in axis.slots)]
    if len(found) == 1 and not found[0].fixed_reason:
        return found[0]
    reasons = {row.layer: row.reason for row in traced.fixed}
    reason = next((axis.fixed_reason for axis in found if axis.fixed_reason), None) or next(
        (reasons[path] for path in writers if path in reasons), "its blocks have different ones"
    )
    raise ConfigError(f"hidden_size: that of {stack.path or 'the model'!r} cannot be elastic: {reason}")


def _followed(hidden: Axis, traced: SearchSpace, space: SearchSpace) -> Axis:
    """The axis with the layers of the same width that read only it: a pooler, the layers of a head.

    In the trace they are axes of their own, because they are not added to the residual stream.
    """
    families = {(slot.layer, slot.role) for axis in space.axes for slot in axis.slots}
    left = [
        axis
        for axis in traced.axes
        if axis.size == hidden.size
        and not axis.fixed_reason
        and not {(slot.layer, slot.role) for slot in axis.slots} & families
        and not any(slot in hidden.slots for slot in axis.slots)
    ]
    slots = list(hidden.slots)
    while True:
        taking = {slot.layer for slot in slots if slot.role == "in"}
        joined_now = [axis for axis in left if all(slot.layer in taking for slot in axis.slots if slot.is_output)]
        if not joined_now:
            return replace(hidden, slots=tuple(slots))
        for axis in joined_now:
            left.remove(axis)
            slots.extend(axis.slots)


def _token_ids(model: nn.Layer, depth: Mapping[str, Any]) -> Example:
    try:
        return random_example(model, **depth)
    except Exception as error:  # anything that the model's forward raises without the inputs that it needs
        raise ConfigError(
            "hidden_size: the model must run once, but cannot run on token ids alone; give OFA(..., "
            f"example_inputs=...) ({error.__cause__ or error})"
        ) from error
