"""The published per-layer dictionaries: ``{"linear_3": {"expand_ratio": 0.5}, "depth": 4}``.

`LayerDictCodec` translates them to `SubnetConfig` and back; no other module reads them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from paddle import nn

from ofa_slim.errors import ConfigError, IllegalSubnetError, nearest
from ofa_slim.supernet.axis import DEPTH, KERNEL, Axis, Slot
from ofa_slim.supernet.layers import inner_layer
from ofa_slim.supernet.space import SearchSpace
from ofa_slim.supernet.spec import spec_of
from ofa_slim.supernet.subnet_config import SubnetConfig

LayerDict = dict[str, Any]
_VALUES = ("expand_ratio", "channel", KERNEL)


class LayerNames:
    """Finds a model's layers by attribute path or by Paddle's full layer name, and those in a `Block` by its key."""

    def __init__(self, model: nn.Layer) -> None:
        self.layers = dict(model.named_sublayers(include_self=True))
        self._path_of = {layer.full_name(): path for path, layer in self.layers.items()}
        self._path_of.update({path: path for path in self.layers if path})
        path_of = {id(layer): path for path, layer in self.layers.items()}
        for path, layer in self.layers.items():
            inner = inner_layer(layer)
            if inner is not layer:
                key = getattr(layer, "key", None) or path
                self._path_of.update(dict.fromkeys((path, layer.full_name(), key), path_of[id(inner)]))

    def path(self, name: str) -> str:
        """The attribute path of the layer called `name`; otherwise raises `ConfigError` with the nearest name."""
        if name not in self._path_of:
            raise ConfigError(f"no layer is called {name!r}{nearest(str(name), self._path_of)}")
        return self._path_of[name]


class LayerDictCodec:
    """Translates the published dictionaries of one model.

    Args:
        names: the layers of the model.
        space: its search space.
    """

    def __init__(self, names: LayerNames, space: SearchSpace) -> None:
        self._names = names
        self._space = space
        # No single axis is the width of a layer whose width is composed of several.
        widths: dict[str, list[Axis]] = {}
        for axis in space.axes:
            for slot in axis.slots:
                if slot.is_output and axis not in widths.setdefault(slot.layer, []):
                    widths[slot.layer].append(axis)
        self._axis_of = {layer: axes[0] for layer, axes in widths.items() if len(axes) == 1}
        self._kernel_of = {axis.slots[0].layer: axis for axis in space.axes if axis.task == KERNEL}

    def axis(self, name: str) -> Axis | None:
        """The axis of a layer's output width, by path or full name of the layer; None where fixed."""
        return self._axis_of.get(self._names.path(name))

    def slot(self, name: str) -> Slot | None:
        """The slot of a layer's output width, by path or full name of the layer; None where fixed."""
        path, axis = self._names.path(name), self.axis(name)
        return None if axis is None else next(slot for slot in axis.slots if slot.is_output and slot.layer == path)

    def kernel_axis(self, name: str) -> Axis | None:
        """The axis of a layer's kernel, by path or full name of the layer; None where fixed."""
        return self._kernel_of.get(self._names.path(name))

    def elastic_layers(self) -> dict[str, dict[str, Axis]]:
        """Every layer with a width or a kernel on an axis, ``{path: {key: axis}}``, in definition order."""
        found = {}
        for path, layer in self._names.layers.items():
            spec = spec_of(layer)
            if spec is None or spec.follows:
                continue
            axes = {KERNEL: self._kernel_of.get(path), "expand_ratio": self._axis_of.get(path)}
            if any(axes.values()):
                found[path] = {key: axis for key, axis in axes.items() if axis is not None}
        return found

    def to_config(self, dictionary: Mapping[str, Any]) -> SubnetConfig:
        """The config of a per-layer dictionary; layers left out run in full.

        Raises: IllegalSubnetError for an unknown name or key, an illegal size, or two tied layers of different sizes.
        """
        sizes: dict[str, int] = {}
        named_by: dict[str, str] = {}
        for name, value in dictionary.items():
            if name == DEPTH:
                sizes.update(self._depths(value))
                continue
            try:
                axis = self.axis(name)
            except ConfigError as error:
                raise IllegalSubnetError(str(error)) from None
            if not value:
                continue
            value = self._checked(name, value)
            if value.get(KERNEL) is not None:
                sizes.update(self._kernel(name, value[KERNEL]))
            size = self._layer_size(name, axis, {key: given for key, given in value.items() if key != KERNEL})
            if axis is None or size is None:
                continue
            if sizes.setdefault(axis.name, size) != size:
                raise IllegalSubnetError(
                    f"{named_by[axis.name]!r} and {name!r} share axis {axis.name!r} "
                    f"but have sizes {sizes[axis.name]} and {size} of {axis.size}"
                )
            named_by[axis.name] = name
        return self._space.complete(sizes)

    def from_config(self, config: Mapping[str, int]) -> LayerDict:
        """A fresh per-layer dictionary of a config, by attribute path, with ``"depth"`` where elastic."""
        dictionary: LayerDict = {
            path: {
                key: config[axis.name] if key == KERNEL else axis.ratio_of(config[axis.name])
                for key, axis in axes.items()
            }
            for path, axes in self.elastic_layers().items()
        }
        depths = {axis.name: config[axis.name] for axis in self._depth_axes()}
        if depths:
            same = len(set(depths.values())) == 1
            dictionary[DEPTH] = next(iter(depths.values())) if same else depths
        return dictionary

    def _depth_axes(self) -> list[Axis]:
        return [axis for axis in self._space.axes if axis.task == DEPTH]

    def _depths(self, value: Any) -> dict[str, int]:
        axes = self._depth_axes()
        if not axes:
            raise IllegalSubnetError(f"depth {value!r} was given, but this model has no elastic depth")
        if isinstance(value, Mapping):
            return {name: self._space[name].check(depth) for name, depth in value.items()}
        return {axis.name: axis.check(value) for axis in axes}

    def _checked(self, name: str, value: Any) -> Mapping[str, Any]:
        if not isinstance(value, Mapping):
            raise IllegalSubnetError(f"layer {name!r}: {value!r} is not a dictionary such as {{'expand_ratio': 0.5}}")
        for key in value:
            if key not in _VALUES:
                raise IllegalSubnetError(
                    f"layer {name!r}: key {key!r} is not one of {', '.join(_VALUES)}{nearest(str(key), _VALUES)}"
                )
        return value

    def _kernel(self, name: str, size: Any) -> dict[str, int]:
        axis = self.kernel_axis(name)
        if axis is None:
            raise IllegalSubnetError(f"layer {name!r}: kernel_size {size!r} is not possible, its kernel is not elastic")
        return {axis.name: axis.check(size)}

    def _layer_size(self, name: str, axis: Axis | None, value: Mapping[str, Any]) -> int | None:
        wanted = {key: given for key, given in value.items() if given is not None}
        if axis is None:
            self._check_full(name, wanted)
            return None
        found = {
            key: axis.from_ratio(given) if key == "expand_ratio" else axis.from_channels(given, self.slot(name))
            for key, given in wanted.items()
        }
        if len(set(found.values())) > 1:
            raise IllegalSubnetError(f"layer {name!r}: expand_ratio and channel give different widths")
        return next(iter(found.values()), None)

    def _check_full(self, name: str, wanted: Mapping[str, Any]) -> None:
        layer = self._names.layers[self._names.path(name)]
        spec = spec_of(layer)
        full = None if spec is None or spec.width is None else spec.full_sizes(layer)[spec.width]
        for key, given in wanted.items():
            if given != (1 if key == "expand_ratio" else full):
                raise IllegalSubnetError(
                    f"layer {name!r}: {key} {given!r} is not possible, its output width is fixed"
                    + (f" at {full}" if full is not None else "")
                )


def choices_from(axis: Axis, slot: Slot, candidates: Mapping[str, Iterable[Any]]) -> tuple[int, ...] | None:
    """The choices of an axis from the candidates of one of its layers; None without candidates.

    Raises: IllegalSubnetError for a ratio, channel count or kernel that is not possible for the axis.
    """
    if axis.task == KERNEL:
        return tuple(axis.check(size) for size in candidates[KERNEL]) if KERNEL in candidates else None
    ratios, channels = candidates.get("expand_ratio"), candidates.get("channel")
    if channels is not None:
        return tuple(axis.from_channels(channel, slot) for channel in channels)
    return None if ratios is None else tuple(axis.from_ratio(ratio) for ratio in ratios)
