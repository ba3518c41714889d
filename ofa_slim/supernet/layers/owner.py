"""Layers of the user's own classes whose forward reads parameters or buffers that they hold themselves.

A layer scale, a class token or positions are parameters that no Paddle layer holds. Such a layer becomes elastic as any
other: its class is swapped for a subclass, in which reading the parameter gives the part that takes part. Its roles are
named after what it holds: ``"gamma:0"`` is the first dimension of its parameter ``gamma``, ``"=channels"`` the number
in its attribute ``channels``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import paddle
from paddle import nn

from ofa_slim.supernet.layers.elastic import ElasticLayer
from ofa_slim.supernet.layers.numbers import cut_numbers, is_number_role, numbers_in, set_number
from ofa_slim.supernet.spec import LayerSpec, Sizes, cut_plain, length, parameter_like, part_of, register_row, spec_of


def parameter_roles(name: str, dims: int) -> tuple[str, ...]:
    """The roles of a parameter's dimensions."""
    return tuple(f"{name}:{dim}" for dim in range(dims))


def is_parameter_role(role: str) -> bool:
    """Whether a role is a dimension of a parameter that a layer of the user's holds."""
    return ":" in role


def held(layer: nn.Layer, name: str) -> paddle.Tensor | None:
    """A parameter or buffer of a layer, whole."""
    found = layer._parameters.get(name)
    return found if found is not None else layer._buffers.get(name)


class Owner(ElasticLayer):
    """Mixin of elastic layers of the user's own classes."""

    def activate(self, sizes: Sizes) -> None:
        """Runs from now on with these sizes."""
        super().activate(sizes)
        for role, extent in sizes.items():
            if is_number_role(role):
                set_number(self, role[1:], length(extent))

    def eval(self) -> Any:
        """Eval mode; what a class makes of its parameters then, as a fused table, it makes of whole ones."""
        with self._full():
            return super().eval()

    def train(self, *args: Any) -> Any:
        """Train mode, as `eval`."""
        with self._full():
            return super().train(*args)

    @contextmanager
    def _full(self) -> Iterator[None]:
        before = self.active_sizes
        self.activate(self.max_sizes)
        try:
            yield
        finally:
            self.activate(before)
            self.active_sizes = before

    def part(self, name: str, sizes: Sizes) -> paddle.Tensor | None:
        """The part of parameter or buffer `name` at `sizes`."""
        whole = held(self, name)
        return None if whole is None else part_of(whole, row(self).params[name], sizes)


def row(layer: nn.Layer) -> LayerSpec:
    """The row of a layer's class."""
    return cast(LayerSpec, spec_of(layer))


def _reading(name: str) -> property:
    def read(layer: Owner) -> paddle.Tensor | None:
        return layer.part(name, vars(layer).get("active_sizes", {}))

    def write(layer: Owner, value: paddle.Tensor) -> None:
        if read(layer) is not held(layer, name):
            raise AttributeError(f"the forward sets {name!r} anew, of which a part is in use")
        (layer._parameters if name in layer._parameters else layer._buffers)[name] = value

    return property(read, write)


_CLASSES: dict[tuple[Any, ...], type[Owner]] = {}


def owner_class(plain: type[nn.Layer], params: tuple[tuple[str, int], ...]) -> type[Owner]:
    """The elastic class of a user's class, for instances that hold these.

    Args:
        plain: the class.
        params: names of parameters and buffers, each with its number of dimensions.
    """
    key = (plain, params)
    if key not in _CLASSES:
        described: dict[str, Any] = {name: _reading(name) for name, _ in params if name.isidentifier()}
        if issubclass(plain, nn.ParameterList):
            described |= {"__getitem__": _item, "__iter__": _items}
        described |= {
            "__doc__": f"An elastic `{plain.__module__}.{plain.__name__}`.",
            "__module__": __name__,
            "__reduce_ex__": lambda self, protocol: (_unfilled, key, vars(self)),
        }
        elastic = type(f"Super{plain.__name__}", (Owner, plain), described)
        roles = {name: parameter_roles(name, dims) for name, dims in params}
        register_row(elastic, LayerSpec(plain, elastic, roles))
        _CLASSES[key] = elastic
    return _CLASSES[key]


def _unfilled(plain: type[nn.Layer], params: tuple[tuple[str, int], ...]) -> nn.Layer:
    """An elastic layer without state, for pickle and copy, which cannot import its class."""
    elastic = owner_class(plain, params)
    return elastic.__new__(elastic)


def _item(layer: Any, index: Any) -> Any:
    if isinstance(index, slice):
        return [layer[place] for place in range(*index.indices(len(layer)))]
    return layer.part(str(range(len(layer))[index]), layer.active_sizes)


def _items(layer: Any) -> Iterator[Any]:
    return (layer[place] for place in range(len(layer)))


def own(layer: nn.Layer, params: Sequence[str]) -> None:
    """Makes a layer of a user's class elastic in place, at full size.

    Args:
        layer: the layer; what is elastic in it already stays so.
        params: its parameters and buffers that may be cut.
    """
    known = row(layer) if isinstance(layer, Owner) else None
    names = list(dict.fromkeys((*(known.params if known else ()), *params)))
    if known is not None and len(names) == len(known.params):
        return
    dims = tuple((name, cast(paddle.Tensor, held(layer, name)).ndim) for name in names)
    numbers = {role: size for role, size in vars(layer).get("max_sizes", {}).items() if is_number_role(role)}
    layer.__class__ = owner_class(known.plain if known else type(layer), dims)
    owner = cast(Owner, layer)
    owner.make_elastic()
    for sizes in (owner.max_sizes, owner.original_sizes):
        sizes.update(numbers)


def follow(layer: nn.Layer, role: str) -> None:
    """Makes a number that an elastic layer of a user's class holds a role of it."""
    owner = cast(Owner, layer)
    size = dict(numbers_in(layer))[role[1:]]
    owner.max_sizes[role] = owner.original_sizes[role] = size


def cut_layer(layer: nn.Layer, sizes: Sizes) -> Callable[[], None]:
    """Cuts a plain layer in place, as `cut_plain`; also one of a user's own class, by the names of its roles."""
    if spec_of(layer) is not None:
        return cut_plain(layer, sizes)
    params, buffers = dict(layer._parameters), dict(layer._buffers)
    uncut = cut_numbers(layer, {role[1:]: length(extent) for role, extent in sizes.items() if is_number_role(role)})
    names = dict.fromkeys(role.rpartition(":")[0] for role in sizes if is_parameter_role(role))
    for name in names:
        whole = cast(paddle.Tensor, held(layer, name))
        with paddle.no_grad():
            part = part_of(whole, parameter_roles(name, whole.ndim), sizes)
        if part is whole:
            continue
        if name in params:
            layer._parameters[name] = parameter_like(layer, whole, part)
        else:
            layer._buffers[name] = part.clone()

    def restore() -> None:
        layer._parameters.update(params)
        layer._buffers.update(buffers)
        uncut()

    return restore
