"""The published functions that find and apply which widths must agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ofa_slim.supernet.handle import Supernet
from ofa_slim.supernet.layers import has_kernel, is_depthwise
from ofa_slim.supernet.spec import spec_of

Groups = list[list[str]]


def check_search_space(graph: Any) -> tuple[Groups | None, list[str], list[str], list[str]]:
    """Which layers of a supernet must have the same width, and which cannot be elastic.

    Args:
        graph: an `OFA` that knows its search space, as after `_clear_search_space`, in place of the published graph.

    Returns: by the names of their weights, the groups of layers that must agree, None where there are none; the
        depthwise convolutions; the layers that an input or a constant fixes; and those that make an output. The last
        two are not told apart here: all fixed layers are in the last list.

    Raises: ConfigError for anything else, or where the search space is not known yet.
    """
    supernet = Supernet.of(graph)
    layers: Mapping[str, Any] = supernet.names.layers

    def weight(path: str) -> str | None:
        spec = spec_of(layers[path])
        return layers[path].weight.name if spec and spec.width and not spec.follows else None

    def weights(paths: Sequence[str]) -> list[str]:
        return sorted({name for name in map(weight, paths) if name is not None})

    groups = []
    fixed = [row.layer for row in supernet.space.fixed]
    for axis in supernet.space.axes:
        outputs = [slot.layer for slot in axis.slots if slot.is_output]
        if axis.fixed_reason:
            fixed += outputs
        elif len(group := weights(outputs)) > 1:
            groups.append(group)
    depthwise = [path for path, layer in layers.items() if has_kernel(layer) and is_depthwise(layer)]
    return sorted(groups) or None, weights(depthwise), [], weights(fixed)


def broadcast_search_space(
    same_search_space: Sequence[Sequence[str]], param2key: Mapping[str, str], origin_config: dict[str, dict[str, Any]]
) -> None:
    """Gives all layers that must agree the width of the first one, in place.

    Args:
        same_search_space: groups of weights whose layers must agree.
        param2key: the layer of each weight.
        origin_config: ``{layer: {"expand_ratio": ...}}``, or with ``"channel"``.
    """
    for first, *others in same_search_space:
        given = origin_config.get(param2key[first], {})
        width: dict[str, Any] = {key: given[key] for key in ("expand_ratio", "channel") if key in given}
        for name in others if width else ():
            origin_config.setdefault(param2key[name], {}).update(width)
