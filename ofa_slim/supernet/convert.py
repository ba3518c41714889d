"""Turning a model into a supernet: `supernet` tells what becomes elastic, `Convert` does it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from paddle import nn

from ofa_slim.base.checks import check_many
from ofa_slim.base.modes import undecorate
from ofa_slim.errors import ConfigError, ConvertError, IllegalSubnetError, nearest
from ofa_slim.supernet.axis import KERNEL, WIDTH, Axis
from ofa_slim.supernet.discover import full_space
from ofa_slim.supernet.families import max_sizes
from ofa_slim.supernet.grow import (
    Chosen,
    grow,
    grown_by_ratio,
    grown_to_channels,
    kernels_when_grown,
    last_with_width,
)
from ofa_slim.supernet.hidden_axis import stream_choices
from ofa_slim.supernet.layers import (
    ElasticLayer,
    elastic_kernels,
    fixed_kernel_reason,
    has_kernel,
    is_depthwise,
    swap_class,
)
from ofa_slim.supernet.published import LayerDictCodec, LayerNames, choices_from
from ofa_slim.supernet.space import SearchSpace
from ofa_slim.supernet.spec import computed_weight, spec_of

logger = logging.getLogger(__name__)

Network = TypeVar("Network", nn.Layer, list[nn.Layer])
Ratios = Sequence[float] | Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class supernet:
    """What becomes elastic in a model.

    Args:
        kernel_size: choices of convolution kernels.
        expand_ratio: width choices as shares of the full width, for everything with a width; or
            ``{layer or axis name: shares}``; everything left out stays full. 0, for heads and neurons of transformer
            blocks alone: the whole attention or feed-forward part is left out.
        channel: width choices in output channels, for everything with a width; or one sequence (or None: full)
            each, in definition order: per axis of a model of a known family, else per layer with a width, of which
            the last may be left out. Not together with `expand_ratio`.
        hidden_size: choices of the hidden size of the model's stacks of blocks, in channels: the width of embeddings,
            residual stream, norms, pooler and the layers that read them. Not part of the published library.

    Raises: ConvertError for values that are not possible for any model.

    Example: ``Convert(supernet(expand_ratio=[1.0, 0.5])).convert(model)``, or as a context,
    ``with supernet(expand_ratio=[1.0, 0.5]) as converter: model = converter.convert(model)``.
    """

    kernel_size: Sequence[int] | None = None
    expand_ratio: Ratios | None = None
    channel: Sequence[int] | Sequence[Sequence[int] | None] | None = None
    hidden_size: Sequence[int] | None = None

    def __post_init__(self) -> None:
        """Checks what can be checked without a model."""
        if self.expand_ratio is not None and self.channel is not None:
            raise ConvertError("expand_ratio and channel cannot both be given")
        for name in ("kernel_size", "expand_ratio", "channel", "hidden_size"):
            value = getattr(self, name)
            if value is None:
                continue
            if isinstance(value, (str, bytes)) or not isinstance(value, (Sequence, Mapping)) or not value:
                raise ConvertError(f"{name} {value!r} is not a list of choices")
        if self.expand_ratio and not isinstance(self.expand_ratio, Mapping) and not any(self.expand_ratio):
            raise ConvertError(f"expand_ratio {list(self.expand_ratio)!r} has no choice above 0")
        if isinstance(self.expand_ratio, Mapping):
            for name, shares in self.expand_ratio.items():
                check_many(shares, f"expand_ratio of {name!r}", "choices", ConvertError)
        lists = self.expand_ratio.values() if isinstance(self.expand_ratio, Mapping) else [self.expand_ratio or ()]
        for ratio in (ratio for ratios in lists for ratio in ratios):
            if isinstance(ratio, bool) or not isinstance(ratio, (int, float)) or ratio < 0:
                raise ConvertError(f"expand_ratio {ratio!r} is not a number of at least 0")
            if ratio > 1 and isinstance(self.expand_ratio, Mapping):
                raise ConvertError(
                    f"expand_ratio {ratio}: single layers cannot grow; only one list for all can have ratios above 1"
                )
        for entry in self.channel or ():
            listed = isinstance(entry, Sequence) and not isinstance(entry, (str, bytes))
            if entry is not None and not listed and type(entry) is not int:
                raise ConvertError(f"channel {entry!r} is neither a whole number nor a list of them for one layer")
        for name in ("kernel_size", "hidden_size"):
            for size in getattr(self, name) or ():
                if isinstance(size, bool) or not isinstance(size, int) or size < 1:
                    raise ConvertError(f"{name} {size!r} is not a whole number of at least 1")

    def __enter__(self) -> Convert:
        """The converter of this context."""
        return Convert(self)

    def __exit__(self, *exc_info: object) -> None:
        """Does nothing: converting changes only the given models."""


class Convert:
    """Turns models into supernets, in place.

    Args:
        context: what becomes elastic.
    """

    def __init__(self, context: supernet) -> None:
        if not isinstance(context, supernet):
            raise ConvertError(f"context is a {type(context).__name__}; a supernet(...) is needed")
        self.context = context

    def convert(self, network: Network) -> Network:
        """Makes layers elastic by swapping their classes.

        Every Parameter object, `state_dict` key and hook stays; at full size the model computes the same as before.
        A model that is already a supernet gets the new choices.

        Args:
            network: a model, or a list of layers.

        Returns: the same object.

        Raises: ConvertError where nothing in the model can be elastic, or a choice is illegal for it; the model is
            not changed then.
        """
        if isinstance(network, list) and all(isinstance(layer, nn.Layer) for layer in network):
            self._convert(nn.LayerList(network))
        elif isinstance(network, nn.Layer):
            self._convert(network)
        else:
            raise ConvertError(f"cannot convert a {type(network).__name__}; a paddle.nn.Layer is needed")
        return network

    def _convert(self, network: nn.Layer) -> None:
        space = full_space(network)
        on_axis = {slot.layer for axis in space.axes for slot in axis.slots}
        chosen = [
            (path, layer)
            for path, layer in network.named_sublayers(include_self=True)
            if (spec := spec_of(layer)) is not None and (path in on_axis or spec.params) and not computed_weight(layer)
        ]
        candidates = self._family_candidates(network, space) if on_axis else self._layer_candidates(network)
        if self.context.hidden_size is not None:
            for path, choices in stream_choices(network, self.context.hidden_size).items():
                candidates[path] = {**candidates.get(path, {}), **choices}
        larger = {} if on_axis else self._larger(chosen, candidates)
        for path, layer in chosen:
            kernels = self._kernels(layer, larger.setdefault(path, {}))
            if len(kernels) > 1:
                candidates.setdefault(path, {})[KERNEL] = kernels
        if self.context.kernel_size is not None and not any(KERNEL in found for found in candidates.values()):
            raise ConvertError("kernel_size was given, but this model has no layer with an elastic kernel")
        if not any(candidates.values()):
            raise ConvertError(f"nothing in this {type(network).__name__} can be elastic with these choices")
        if undecorate(network):
            logger.info(
                "%s: paddle.jit.to_static is taken back, as its program knows no widths", type(network).__name__
            )
        for path, layer in chosen:
            if isinstance(layer, ElasticLayer):
                layer.candidate_config = dict(candidates.get(path, {}))
            else:
                original = max_sizes(layer)
                if larger[path]:
                    grow(layer, larger[path])
                swap_class(layer, candidates.get(path))
                layer.original_sizes = original
            layer.fixed_kernel = self._fixed_kernel(layer, KERNEL in candidates.get(path, {}))

    def _larger(self, chosen: Chosen, candidates: dict[str, dict[str, Any]]) -> dict[str, dict[str, int]]:
        """The sizes to which layers must grow for the largest choices of width."""
        ratios = self.context.expand_ratio
        largest = max(ratios) if ratios and not isinstance(ratios, Mapping) else 1.0
        if largest > 1:
            self._check_plain(chosen, f"expand_ratio {largest:g}")
            return grown_by_ratio(chosen, largest)
        channels = {path: found["channel"] for path, found in candidates.items() if "channel" in found}
        widths = {path: (max_sizes(layer) or {}).get("out", 0) for path, layer in chosen}
        if any(max(sizes) > widths[path] for path, sizes in channels.items()):
            self._check_plain(chosen, "channel")
            last = last_with_width(chosen)
            for path, layer in chosen:
                # The outputs of the last layer stay, as with ratios; a depthwise convolution has those of its input.
                stays = path == last and max(channels.get(path, (0,))) > widths[path]
                if path in channels and (stays or (has_kernel(layer) and is_depthwise(layer))):
                    del channels[path], candidates[path]
            return grown_to_channels(chosen, channels)
        return {}

    def _check_plain(self, chosen: Chosen, option: str) -> None:
        if any(isinstance(layer, ElasticLayer) for _, layer in chosen):
            raise ConvertError(f"{option}: this model is already a supernet and cannot grow any more")

    def _kernels(self, layer: nn.Layer, larger: dict[str, int]) -> tuple[int, ...]:
        """The kernel sizes that a layer will have; a kernel that must grow is added to `larger`."""
        choices, sizes = self.context.kernel_size, max_sizes(layer)
        if choices is None or sizes is None or "kernel" not in sizes:
            return ()
        if isinstance(layer, ElasticLayer) or not 2 <= sizes["kernel"] < max(choices):
            return elastic_kernels(layer, choices)
        larger["kernel"] = max(choices)
        return kernels_when_grown(layer, choices)

    def _fixed_kernel(self, layer: nn.Layer, elastic: bool) -> str:
        """Why a converted layer's kernel is not elastic; "" where it is, or without choices of kernels."""
        if self.context.kernel_size is None or elastic or not has_kernel(layer):
            return ""
        return fixed_kernel_reason(layer, self.context.kernel_size) or ""

    def _layer_candidates(self, network: nn.Layer) -> dict[str, dict[str, Any]]:
        """The candidate configuration of each layer that has its own width."""
        ratios, channels = self.context.expand_ratio, self.context.channel
        names = LayerNames(network)
        wide = [
            path
            for path, layer in names.layers.items()
            if (spec := spec_of(layer)) is not None
            and spec.width is not None
            and not spec.follows
            and not computed_weight(layer)
        ]
        if isinstance(ratios, Mapping):
            found = {}
            for name, shares in ratios.items():
                try:
                    path = names.path(name)
                except ConfigError as error:
                    raise ConvertError(f"expand_ratio: {error}") from None
                if path not in wide:
                    raise ConvertError(f"expand_ratio: layer {name!r} does not have its own width")
                if not min(shares):
                    raise ConvertError(f"expand_ratio 0: layer {name!r} is in no known block and cannot be left out")
                found[path] = {"expand_ratio": tuple(shares)}
            return found
        if ratios is not None:
            if min(ratios) == 0:
                raise ConvertError(
                    "expand_ratio 0: only attentions and feed-forward parts of known blocks can be left out"
                )
            return {path: {"expand_ratio": tuple(ratios)} for path in wide}
        if channels is None:
            return {}
        per_layer = _each(channels, len(wide))
        if len(per_layer) not in (len(wide), len(wide) - 1):
            raise ConvertError(
                f"channel has {len(per_layer)} entries, but {len(wide)} layers have a width: {', '.join(wide)}"
            )
        return {path: {"channel": tuple(sizes)} for path, sizes in zip(wide, per_layer, strict=False) if sizes}

    def _family_candidates(self, network: nn.Layer, space: SearchSpace) -> dict[str, dict[str, Any]]:
        """The candidate configuration of each layer that is on a width axis."""
        axes = [axis for axis in space.axes if axis.task == WIDTH]
        by_axis = self._by_axis(network, space, axes)
        for axis in axes:
            try:
                choices_from(axis, axis.slots[0], by_axis[axis.name])
            except IllegalSubnetError as error:
                raise ConvertError(str(error)) from None
        candidates = {}
        for axis in axes:
            first, chosen = axis.slots[0], by_axis[axis.name]
            for slot in axis.slots:
                # Channels are those of the first layer; keys and values have fewer than their group of queries.
                same = (slot.unit, slot.starts) == (first.unit, first.starts)
                if slot.is_output and (same or "channel" not in chosen):
                    candidates[slot.layer] = chosen
        return candidates

    def _by_axis(self, network: nn.Layer, space: SearchSpace, axes: list[Axis]) -> dict[str, dict[str, Any]]:
        ratios, channels = self.context.expand_ratio, self.context.channel
        found: dict[str, dict[str, Any]] = {axis.name: {} for axis in axes}
        if isinstance(ratios, Mapping):
            dictionaries = LayerDictCodec(LayerNames(network), space)
            for name, chosen in ratios.items():
                axis = space[name] if name in found else _axis_of_layer(dictionaries, name, found)
                found[axis.name] = {"expand_ratio": tuple(chosen)}
        elif ratios is not None:
            found = {axis.name: {"expand_ratio": tuple(ratios)} for axis in axes}
        elif channels is not None:
            per_axis = _each(channels, len(axes))
            if len(per_axis) != len(axes):
                raise ConvertError(
                    f"channel has {len(per_axis)} entries, but the model has {len(axes)} elastic axes: "
                    + ", ".join(axis.name for axis in axes)
                )
            for axis, widths in zip(axes, per_axis, strict=True):
                found[axis.name] = {} if widths is None else {"channel": tuple(widths)}
        return found


def _each(channels: Sequence[Any], count: int) -> list[Any]:
    """One sequence of channels for each of `count`; a single sequence is for all."""
    return [list(channels)] * count if all(isinstance(entry, int) for entry in channels) else list(channels)


def _axis_of_layer(dictionaries: LayerDictCodec, name: str, axes: Mapping[str, Any]) -> Axis:
    try:
        axis = dictionaries.axis(name)
    except ConfigError:
        raise ConvertError(f"expand_ratio: no layer or axis is called {name!r}{nearest(name, axes)}") from None
    if axis is None:
        raise ConvertError(f"expand_ratio: the output width of layer {name!r} is fixed")
    return axis
