"""Supernet and config to a plain model: cut, checked against the supernet, or put back as it was."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import paddle
from paddle import nn

from ofa_slim.errors import ExportError
from ofa_slim.integrations.depth import set_config_depth
from ofa_slim.probes import Probe, compare, make_probe
from ofa_slim.supernet.convert import activate, active_sizes_kept, make_plain
from ofa_slim.supernet.families import layer_at
from ofa_slim.supernet.layers import ElasticLayer, swap_class
from ofa_slim.supernet.space import DEPTH, SearchSpace, SubnetConfig
from ofa_slim.supernet.spec import cut_plain, spec_of

Undo = Callable[[], None]


def export_subnet(
    supernet: nn.Layer,
    space: SearchSpace,
    config: SubnetConfig,
    origin_model: nn.Layer | None = None,
    input_shapes: Any = None,
    input_dtypes: Any = None,
    load_weights_from_supernet: bool = True,
) -> nn.Layer:
    """Cuts a plain model for a config; see `OFA.export`."""
    if origin_model is not None:
        _check_origin(supernet, origin_model)
    probe = make_probe(supernet, input_shapes, input_dtypes)
    # A model that cuts its own depth is told it at each call, the exported one as well.
    call = {DEPTH: config[DEPTH]} if DEPTH in config else {}
    with active_sizes_kept(supernet):
        if load_weights_from_supernet or origin_model is None:
            activate(supernet, space, config)
            expected = probe.run(supernet, **call)
        else:
            expected = _run_as_supernet(origin_model, space, config, probe, call)
    if origin_model is None:
        target = make_plain(copy.deepcopy(supernet))
        _cut_checked(target, space, config, probe, expected, call)
        return target
    old = {key: value.clone() for key, value in origin_model.state_dict().items()}
    if not load_weights_from_supernet:
        _cut_checked(origin_model, space, config, probe, expected, call)
        return origin_model
    try:
        origin_model.set_state_dict(supernet.state_dict())
        _cut_checked(origin_model, space, config, probe, expected, call)
    except BaseException:
        origin_model.set_state_dict(old)
        raise
    return origin_model


def cut(model: nn.Layer, space: SearchSpace, config: Mapping[str, int]) -> Undo:
    """Cuts a plain model in place to a config of its space.

    Returns: a function that puts it back: the same Parameter objects, layers and sizes.
    """
    # Every layer is looked up before any is cut: a shortened stack renumbers its layers.
    targets = [(layer_at(model, path), sizes) for path, sizes in space.layer_sizes(config).items()]
    undo: list[Undo] = []
    try:
        for axis in space.axes:
            if axis.task == DEPTH and axis.slots and config[axis.name] != axis.size:
                undo.append(set_config_depth(model, axis.size, config[axis.name]))
        for layer, sizes in targets:
            undo.append(cut_plain(layer, sizes))
    except BaseException:
        _run_back(undo)
        raise
    return lambda: _run_back(undo)


def _cut_checked(
    model: nn.Layer,
    space: SearchSpace,
    config: SubnetConfig,
    probe: Probe,
    expected: list[paddle.Tensor],
    call: dict[str, Any],
) -> None:
    undo = cut(model, space, config)
    try:
        compare(expected, probe.run(model, **call), "export")
    except BaseException:
        undo()
        raise


def _run_back(undo: list[Undo]) -> None:
    for step in reversed(undo):
        step()


def _run_as_supernet(
    origin: nn.Layer, space: SearchSpace, config: SubnetConfig, probe: Probe, call: dict[str, Any]
) -> list[paddle.Tensor]:
    """What a supernet made of the origin's own weights computes under a config."""
    twin = copy.deepcopy(origin)
    for path in space.layer_sizes(config):
        swap_class(layer_at(twin, path))
    activate(twin, space, config)
    return probe.run(twin, **call)


def _check_origin(supernet: nn.Layer, origin: nn.Layer) -> None:
    if not isinstance(origin, nn.Layer):
        raise ExportError(f"origin_model is a {type(origin).__name__}, not a paddle.nn.Layer")
    if any(isinstance(layer, ElasticLayer) for layer in origin.sublayers(include_self=True)):
        raise ExportError("origin_model is a supernet; give a plain model of the original, or leave it out")
    own, its = supernet.state_dict(), origin.state_dict()
    for key in {**own, **its}:
        if key not in own or key not in its:
            raise ExportError(f"origin_model has another structure: {key!r} is in only one of the two")
        if list(own[key].shape) != list(its[key].shape):
            raise ExportError(
                f"origin_model has another structure: {key!r} has shape {list(its[key].shape)}, in the supernet "
                f"{list(own[key].shape)}"
            )
    for path, layer in supernet.named_sublayers(include_self=True):
        if isinstance(layer, ElasticLayer) and spec_of(layer_at(origin, path)) is not spec_of(layer):
            raise ExportError(
                f"origin_model has another structure: {path!r} is a {type(layer_at(origin, path)).__name__}"
            )
