"""Whether a sub-network computes what the whole model does with the cut channels silenced.

The model's own code runs at full size with the numbers that it was written with, and only the layers are cut: each
takes the channels that it keeps out of its input and puts zeros at the places of those that it does not make.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import numpy as np
import paddle
from paddle import nn

from ofa_slim.base.modes import eval_mode
from ofa_slim.base.nested import tensors_in
from ofa_slim.supernet.handle import Supernet, active_sizes_kept
from ofa_slim.supernet.layers import Owner, has_kernel, is_depthwise
from ofa_slim.supernet.mending.running import Probe
from ofa_slim.supernet.paths import layer_at
from ofa_slim.supernet.spec import Extent, entries_of, row_of
from ofa_slim.supernet.subnet_config import SubnetConfig

CLOSE = {"float16": 2e-2, "bfloat16": 1e-1, "float64": 1e-8}


class UnprovenError(Exception):
    """A layer whose channels cannot be silenced from outside."""


class _EnoughError(Exception):
    """All that was to be compared has been."""


def computes_the_same(probe: Probe, config: SubnetConfig) -> bool:
    """Whether a config's layers get and make what they do in the whole model in which what it cuts is silenced.

    Where the forward fails with the config, those that ran before are compared.
    """
    model = probe.supernet.model
    paths = probe.supernet.layer_sizes(config)
    cut = (layer_at(model, path) for path in paths)
    layers = [layer for layer in cut if not isinstance(layer, Owner) and _is_supported(layer)]
    inputs: list[paddle.Tensor | None] = []  # None: passed by name
    differ: list[bool] = []

    def keep(layer: nn.Layer, given: Any, made: Any) -> None:
        inputs.append(given[0] if given else None)

    def compare(layer: nn.Layer, given: Any, made: Any) -> None:
        place = len(differ)
        if place == len(inputs):
            raise _EnoughError
        differ.append(not _agree(inputs[place], given[0] if given else None))
        if differ[-1]:
            raise _EnoughError

    outputs = None
    with _after_each(layers, keep), suppress(Exception):  # whatever the model's forward raises
        outputs = list(tensors_in(probe.outputs(config)))
    arguments = {**probe.example.kwargs, **probe.supernet.forward_arguments(probe.supernet.space.largest())}
    try:
        with silenced(probe.supernet, config), _after_each(layers, compare):
            whole = list(tensors_in(model(*probe.example.args, **arguments)))
    except _EnoughError:
        return not any(differ)
    except UnprovenError:
        return False
    return outputs is None or all(map(_agree, outputs, whole))


@contextmanager
def _after_each(layers: Sequence[nn.Layer], hook: Any) -> Iterator[None]:
    handles = [layer.register_forward_post_hook(hook) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _is_supported(layer: nn.Layer) -> bool:
    return has_kernel(layer) or isinstance(layer, (nn.Linear, nn.Embedding)) or _is_channelwise(layer)


def _is_channelwise(layer: nn.Layer) -> bool:
    """Whether a layer has parameters of channels alone, so that its width is that of its input."""
    return {role for roles in row_of(layer).params.values() for role in roles} == {"out"}


def _agree(one: paddle.Tensor | None, other: paddle.Tensor | None) -> bool:
    if one is None or other is None:
        return one is other
    if one.shape != other.shape:
        return False
    a, b = (value.astype("float64").numpy() for value in (one, other))
    limit = CLOSE.get(str(one.dtype).removeprefix("paddle."), 1e-4) * max(1.0, np.abs(b).max(initial=0.0))
    return np.allclose(a, b, rtol=0.0, atol=limit, equal_nan=True)


@contextmanager
def silenced(supernet: Supernet, config: SubnetConfig) -> Iterator[None]:
    """Inside the block the model runs at full size, its cut channels silent, in eval mode and without gradients."""
    sizes = supernet.layer_sizes(config)
    with ExitStack() as stack:
        layers = stack.enter_context(active_sizes_kept(supernet.model))
        for elastic in layers:
            elastic.activate(elastic.max_sizes)
        for path, own in sizes.items():
            cut = layer_at(supernet.model, path)
            if isinstance(cut, Owner) or not _is_cut(cut, own):
                continue
            taken, made = _channels(cut, own)
            cut.activate(own)
            for handle in _hooks(cut, taken, made):
                stack.callback(handle.remove)
        stack.enter_context(eval_mode(supernet.model))
        stack.enter_context(paddle.no_grad())
        yield


def _is_cut(layer: Any, sizes: Mapping[str, Extent]) -> bool:
    return any(len(entries_of(extent)) < layer.max_sizes[role] for role, extent in sizes.items())


def _channels(layer: nn.Layer, sizes: Mapping[str, Extent]) -> tuple[Sequence[int] | None, Sequence[int] | None]:
    """The channels of its input and of its output that a layer keeps; None for all.

    Raises: UnprovenError for a layer that is not one from channels to channels.
    """
    entries = {role: entries_of(extent) for role, extent in sizes.items()}
    taken, made = entries.get("in"), entries.get("out")
    if has_kernel(layer):
        groups, inputs, outputs = layer._groups, layer._in_channels, layer._out_channels
        if is_depthwise(layer):
            times = outputs // inputs
            taken = taken or sorted({entry // times for entry in made or ()})
            return taken, [entry * times + k for entry in taken for k in range(times)]
        if groups > 1:
            if taken is not None and "group_out" not in layer.max_sizes:
                taken = [group * (inputs // groups) + entry for group in range(groups) for entry in taken]
            if "group_out" in entries:
                made = [group * (outputs // groups) + e for group in range(groups) for e in entries["group_out"]]
        return taken, made if made is not None else entries.get("group_out")
    if _is_channelwise(layer):
        return made, made
    if isinstance(layer, (nn.Linear, nn.Embedding)) and set(sizes) <= {"in", "out"}:
        return taken, made
    raise UnprovenError(type(layer).__name__)


def _hooks(layer: Any, taken: Sequence[int] | None, made: Sequence[int] | None) -> Iterator[Any]:
    if taken is not None:
        yield layer.register_forward_pre_hook(_taking(taken))
    if made is not None:
        yield layer.register_forward_post_hook(_putting(made, _width(layer)))


def _taking(taken: Sequence[int]) -> Any:
    """A hook that hands on some channels of the input."""

    def take(layer: nn.Layer, inputs: Any) -> Any:
        if not inputs:
            raise UnprovenError("its input is passed by name")
        index = paddle.to_tensor(np.asarray(taken, "int64"), place=inputs[0].place)
        return (paddle.index_select(inputs[0], index, _channel_axis(layer, inputs[0])), *inputs[1:])

    return take


def _putting(made: Sequence[int], width: int) -> Any:
    """A hook that puts the channels of the output at their places among `width`, the others 0."""
    places = np.full(width, len(made), "int64")
    places[list(made)] = np.arange(len(made))

    def put(layer: nn.Layer, inputs: Any, output: Any) -> Any:
        at = _channel_axis(layer, output)
        silent = paddle.zeros([1 if i == at else size for i, size in enumerate(output.shape)], output.dtype)
        index = paddle.to_tensor(places, place=output.place)
        return paddle.index_select(paddle.concat([output, silent], at), index, at)

    return put


def _channel_axis(layer: nn.Layer, tensor: paddle.Tensor) -> int:
    layout = str(getattr(layer, "_data_format", ""))
    return 1 if layout[1:2] == "C" and tensor.ndim > 1 else tensor.ndim - 1


def _width(layer: Any) -> int:
    return int(layer._out_channels if has_kernel(layer) else layer.max_sizes["out"])
