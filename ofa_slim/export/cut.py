"""Cutting a plain model out of a supernet, checked against it; on failure everything is put back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import paddle
from paddle import nn

from ofa_slim.base.checks import check_layer
from ofa_slim.base.copies import copied
from ofa_slim.base.examples import Example, compare, random_example
from ofa_slim.closed_form import repair_if_better
from ofa_slim.errors import ExportError
from ofa_slim.export.config_depth import set_config_depth
from ofa_slim.export.recalibration import recalibrate
from ofa_slim.supernet.axis import DEPTH
from ofa_slim.supernet.discover import grown_roles
from ofa_slim.supernet.handle import Supernet, make_plain
from ofa_slim.supernet.layers import (
    ElasticLayer,
    Owner,
    cut_layer,
    follow,
    is_number_role,
    is_parameter_role,
    own,
    swap_class,
)
from ofa_slim.supernet.omit import above_zero, omitted, omitting
from ofa_slim.supernet.paths import layer_at, parent_at
from ofa_slim.supernet.space import SearchSpace
from ofa_slim.supernet.spec import parameter_like, row_of, spec_of
from ofa_slim.supernet.subnet_config import SubnetConfig
from ofa_slim.supernet.tied import tie, ties

Undo = Callable[[], None]


def export_subnet(
    supernet: Supernet,
    config: SubnetConfig,
    origin_model: nn.Layer | None = None,
    input_shapes: Any = None,
    input_dtypes: Any = None,
    load_weights_from_supernet: bool = True,
    loader: Iterable[Any] | None = None,
    batches: int | None = None,
    repair: Iterable[Any] | None = None,
) -> nn.Layer:
    """Cuts a plain model for a config; see `OFA.export`."""
    model, space = supernet.model, supernet.space
    grown = list(grown_roles(model))
    if origin_model is not None:
        _check_origin(model, origin_model, grown)
        if grown and not load_weights_from_supernet:
            raise ExportError(
                f"load_weights_from_supernet=False: the supernet is larger than origin_model (at {grown[0]!r}), so it "
                "cannot be cut from its own weights"
            )
    call = supernet.forward_arguments(config)
    example = random_example(model, input_shapes, input_dtypes, **call)
    target = origin_model
    undo: list[Undo] = []
    try:
        if load_weights_from_supernet or target is None:
            with supernet.using(config):
                expected = example.outputs(model, **call)
                weights = transformed_weights(model)
        else:
            expected, weights = _run_as_supernet(target, space, config, example, call), {}
        if target is None or grown:
            target = make_plain(copied(model))
        elif load_weights_from_supernet:
            undo.append(_load(target, model))
        undo.append(cut(target, space, config, weights))
        compare(expected, example.outputs(target, **call), "export")
        if loader is not None:
            recalibrate(target, loader, batches, call)
        if repair is not None:
            repair_if_better(target, model, repair)
        if origin_model is not None and target is not origin_model:
            _transplant(target, origin_model, grown, space, config)
    except BaseException:
        _run_back(undo)
        raise
    return target if origin_model is None else origin_model


def _load(target: nn.Layer, supernet: nn.Layer) -> Undo:
    """Gives a plain model a supernet's weights, without those that only elastic layers have (kernel transforms)."""
    old = {key: value.clone() for key, value in target.state_dict().items()}
    state = supernet.state_dict()
    target.set_state_dict({key: state[key] for key in old})

    def undo() -> None:
        target.set_state_dict(old)

    return undo


def transformed_weights(supernet: nn.Layer) -> dict[str, paddle.Tensor]:
    """The weights of the active sub-network that are not slices of a parameter, by the layer's path."""
    with paddle.no_grad():
        return {
            path: layer.part("weight", layer.active_sizes)
            for path, layer in supernet.named_sublayers(include_self=True)
            if getattr(layer, "transforms", ())
        }


def _transplant(
    source: nn.Layer, target: nn.Layer, grown: Sequence[str], space: SearchSpace, config: SubnetConfig
) -> None:
    """Puts the cut layers of one plain model in the place of another's, and its other weights too."""
    gone = tuple(f"{bypass.output}." for bypass in omitted(space.axes, config))
    paths = dict.fromkeys(path for path in [*grown, *space.layer_sizes(config)] if not path.startswith(gone))
    for path in paths:
        parent, name = parent_at(target, path)
        parent.add_sublayer(name, layer_at(source, path))
    state = source.state_dict()
    target.set_state_dict(state)


def cut(
    model: nn.Layer, space: SearchSpace, config: Mapping[str, int], weights: Mapping[str, paddle.Tensor] | None = None
) -> Undo:
    """Cuts a plain model in place to a config of its space.

    Args:
        model: a plain model.
        space: its axes.
        config: the size of every axis.
        weights: the weights of layers, by path, that are not slices of the model's.

    Returns: a function that puts it back: the same Parameter objects, layers and sizes.
    """
    # Every layer is looked up before any is cut: a shortened stack renumbers its layers.
    targets = [(layer_at(model, path), sizes) for path, sizes in space.layer_sizes(config).items()]
    together = ties(model)
    omissions = [omitting(model, bypass) for bypass in omitted(space.axes, config)]
    undo: list[Undo] = []
    try:
        for axis in space.axes:
            if axis.task == DEPTH and axis.slots and config[axis.name] != axis.size:
                undo.append(set_config_depth(model, axis.size, config[axis.name]))
        special = [(layer_at(model, path), value) for path, value in (weights or {}).items()]
        for layer, sizes in targets:
            undo.append(cut_layer(layer, above_zero(sizes)))
        for layer, value in special:
            undo.append(_set_weight(layer, value))
        tie(together)
        for omit in omissions:
            undo.append(omit())
    except BaseException:
        _run_back(undo)
        raise
    return lambda: _run_back(undo)


def _set_weight(layer: nn.Layer, value: paddle.Tensor) -> Undo:
    old = layer.weight
    layer.weight = parameter_like(layer, old, value)
    return lambda: setattr(layer, "weight", old)


def _run_back(undo: list[Undo]) -> None:
    for step in reversed(undo):
        step()


def _run_as_supernet(
    origin: nn.Layer, space: SearchSpace, config: SubnetConfig, example: Example, call: dict[str, int]
) -> list[paddle.Tensor]:
    """The outputs of a supernet made of the origin's own weights, under a config."""
    twin = copied(origin)
    for path, sizes in space.layer_sizes(config).items():
        layer = layer_at(twin, path)
        if spec_of(layer) is not None:
            swap_class(layer)
            continue
        own(layer, list(dict.fromkeys(role.rpartition(":")[0] for role in sizes if is_parameter_role(role))))
        for role in filter(is_number_role, sizes):
            follow(layer, role)
    Supernet(twin, space).activate(config)
    return example.outputs(twin, **call)


def _check_origin(supernet: nn.Layer, origin: nn.Layer, grown: Sequence[str]) -> None:
    check_layer(origin, "origin_model", ExportError)
    if any(isinstance(layer, ElasticLayer) for layer in origin.sublayers(include_self=True)):
        raise ExportError("origin_model is a supernet; give a plain model of the original, or leave it out")
    own, its = make_plain(copied(supernet)).state_dict(), origin.state_dict()
    for key in {**own, **its}:
        if key not in own or key not in its:
            raise ExportError(f"origin_model has another structure: {key!r} is in only one of the two")
        if list(own[key].shape) != list(its[key].shape) and key.rpartition(".")[0] not in grown:
            raise ExportError(
                f"origin_model has another structure: {key!r} has shape {list(its[key].shape)}, in the supernet "
                f"{list(own[key].shape)}"
            )
    for path, layer in supernet.named_sublayers(include_self=True):
        of_its_class = row_of(layer).plain if isinstance(layer, Owner) else None
        if type(layer_at(origin, path)) is of_its_class:
            continue
        if isinstance(layer, ElasticLayer) and spec_of(layer_at(origin, path)) is not spec_of(layer):
            raise ExportError(
                f"origin_model has another structure: {path!r} is a {type(layer_at(origin, path)).__name__}"
            )


def export_arguments(args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of `OFA.export` by name, from either of the two orders it is called in."""

    def by_model(
        origin_model: Any = None,
        config: Any = None,
        input_shapes: Any = None,
        input_dtypes: Any = None,
        load_weights_from_supernet: bool = True,
        loader: Any = None,
        batches: int | None = None,
        repair: Any = None,
    ) -> dict[str, Any]:
        return dict(locals())

    def by_config(
        config: Any,
        input_shapes: Any = None,
        input_dtypes: Any = None,
        origin_model: Any = None,
        load_weights_from_supernet: bool = True,
        loader: Any = None,
        batches: int | None = None,
        repair: Any = None,
    ) -> dict[str, Any]:
        return dict(locals())

    config_first = bool(args) and isinstance(args[0], Mapping) and not isinstance(args[0], nn.Layer)
    return by_config(*args, **kwargs) if config_first else by_model(*args, **kwargs)
