"""What a sub-network costs: parameters, multiply-accumulates and activations, counted without building it.

Everything is counted against the rows of the layers (`LayerSpec`), so a sub-network in the supernet and the model that
is exported from it are counted by the same sums; only where the sizes come from differs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import paddle
from paddle import nn

from ofa_slim.base.examples import Example
from ofa_slim.base.nested import split
from ofa_slim.supernet.axis import DEPTH, Axis
from ofa_slim.supernet.handle import Supernet
from ofa_slim.supernet.layers import kept_layers
from ofa_slim.supernet.space import SearchSpace
from ofa_slim.supernet.spec import LayerSpec, length, spec_of
from ofa_slim.supernet.subnet_config import SubnetConfig


@dataclass(frozen=True)
class Cost:
    """What a model costs.

    Attributes:
        params: what its `parameters()` hold; Paddle counts the running statistics of batch norms among them.
        flops: multiply-accumulates of one forward, each counted as one, by the rules of `paddle.flops`: a linear
            layer's inputs per output; a convolution's inputs times kernel, and its bias, per output; 2 per output of a
            norm. Beyond
            what that counts: norms other than batch norms, and attention's two products. Activation functions, pooling
            and what a forward computes by itself count nothing.
        activation_bytes: the outputs of all linear layers, convolutions, norms and embeddings in one forward, and the
            scores of attention. A training step keeps about that much; inference less.
    """

    params: int
    flops: int
    activation_bytes: int


@dataclass(frozen=True)
class _Use:
    """How a layer was used in one forward.

    Attributes:
        positions: at how many places it computed all its outputs, all calls together; for attention, pairs of places.
        bytes: of one output.
    """

    positions: int
    bytes: int


_Uses = Mapping[str, _Use]


class CostModel:
    """The cost of every sub-network of a supernet, each worked out from sizes alone.

    The supernet runs twice, at full size and as its smallest sub-network, to see at how many positions each layer
    works. Where that follows a width (a linear layer over what were channels), every config is run once instead.

    Args:
        supernet: the supernet.
        example: one call of it.
    """

    def __init__(self, supernet: Supernet, example: Example) -> None:
        model, space = supernet.model, supernet.space
        self._supernet = supernet
        self._example = example
        self._layers = _counted_layers(model)
        self._others = _uncounted_params(model, self._layers)
        self._stacks = _stacks(model, space)
        self._known: dict[SubnetConfig, _Uses] = {}
        smallest = SubnetConfig({name: max(1, size) for name, size in space.smallest().items()})
        ends = [self._seen(space.largest()), self._seen(smallest)]
        repeats = any(
            axis.task == DEPTH and axis.slots and axis not in self._stacks.values() for axis in space.axes
        )  # a depth that counts the calls of one block
        self._steady = not repeats and all(ends[0].get(path) == use for path, use in ends[1].items())

    @classmethod
    def of(cls, ofa: Any, input_shapes: Any = None, input_dtypes: Any = None) -> CostModel:
        """The cost model of a supernet at some input shapes.

        Args:
            ofa: an `OFA`, or a `Supernet`.
            input_shapes: of one call, as in `OFA.export`; the first dimension is the batch.
            input_dtypes: as in `OFA.export`.

        Raises: ExportError for shapes that are none, or where they cannot be left out.
        """
        supernet = Supernet.of(ofa)
        return cls(supernet, supernet.example(input_shapes, input_dtypes))

    def __call__(self, config: Mapping[str, int]) -> Cost:
        """The cost of a sub-network."""
        config = SubnetConfig(config)
        extents = self._supernet.layer_sizes(config)
        dropped = self._dropped(config)
        sizes = {}
        for path, layer in self._layers.items():
            if not path.startswith(dropped):
                own = {role: length(extent) for role, extent in extents.get(path, {}).items()}
                sizes[path] = {**layer.full, **own}
        uses = self._uses(config)
        return _total({path: self._layers[path] for path in sizes}, sizes, uses, self._others)

    def _dropped(self, config: Mapping[str, int]) -> tuple[str, ...]:
        """How the paths of layers begin that the depth drops."""
        return tuple(
            f"{path}.{number}."
            for path, axis in self._stacks.items()
            for number in set(range(axis.size)) - set(kept_layers(config[axis.name], axis.size))
        )

    def _uses(self, config: SubnetConfig) -> _Uses:
        reference = config
        if self._steady:
            reference = SubnetConfig({**self._supernet.space.largest(), **self._supernet.forward_arguments(config)})
        if reference not in self._known:
            self._known[reference] = self._seen(reference)
        return self._known[reference]

    def _seen(self, config: SubnetConfig) -> _Uses:
        """What the layers do in one forward of a sub-network."""
        model, extents = self._supernet.model, self._supernet.layer_sizes(config)
        with self._supernet.using(config), _watched(model, self._layers) as outputs:
            self._example.call(model, **self._supernet.forward_arguments(config))
        sizes = {
            path: {**layer.full, **{role: length(extent) for role, extent in extents.get(path, {}).items()}}
            for path, layer in self._layers.items()
        }
        return _positions(self._layers, sizes, outputs)


def measured_cost(model: nn.Layer, example: Example, **call: Any) -> Cost:
    """The cost of a plain model as it stands, counted by running it once.

    Args:
        model: a plain model, exported or not.
        example: one call of it.
        call: what it is given beside.
    """
    layers = _counted_layers(model)
    with _watched(model, layers) as outputs:
        example.call(model, **call)
    sizes = {path: layer.full for path, layer in layers.items()}
    return _total(layers, sizes, _positions(layers, sizes, outputs), _uncounted_params(model, layers))


@dataclass(frozen=True)
class _Counted:
    """A layer with a row.

    Attributes:
        spec: its row.
        full: its size per role.
        params: the roles of each of its parameters, by the parameter's name.
        tied: those of its parameters that an earlier layer has too.
        head_dim: of attention.
    """

    spec: LayerSpec
    full: Mapping[str, int]
    params: Mapping[str, tuple[str, ...]]
    tied: frozenset[str]
    head_dim: int

    def entries(self, name: str, sizes: Mapping[str, int]) -> int:
        """How many numbers a parameter has."""
        return math.prod(sizes[role] for role in self.params[name])

    def work(self, sizes: Mapping[str, int]) -> int:
        """Multiply-accumulates per position."""
        if self.spec.qk_projections is not None:
            return 2 * self.head_dim * sizes["heads"]
        found = 0
        for name, times in self.spec.macs.items():
            if name == "out":
                found += times * sizes["out"]
            elif name in self.params:
                found += times * self.entries(name, sizes)
        return found

    def outputs(self, sizes: Mapping[str, int]) -> int:
        """Outputs per position."""
        return sizes["heads" if self.spec.qk_projections is not None else "out"]


def _total(
    layers: Mapping[str, _Counted], sizes: Mapping[str, Mapping[str, int]], uses: _Uses, other_params: int
) -> Cost:
    params, flops, activations = other_params, 0, 0
    for path, layer in layers.items():
        own = sizes[path]
        params += sum(layer.entries(name, own) for name in layer.params if name not in layer.tied)
        use = uses.get(path)
        if use is not None:
            flops += use.positions * layer.work(own)
            activations += use.positions * layer.outputs(own) * use.bytes
    return Cost(params, flops, activations)


def _counted_layers(model: nn.Layer) -> dict[str, _Counted]:
    """The layers with a row that have parameters or scores, by path."""
    found: dict[str, _Counted] = {}
    seen: set[int] = set()
    for path, layer in model.named_sublayers(include_self=True):
        spec = spec_of(layer)
        if spec is None or not (spec.params or spec.qk_projections):
            continue
        full = {role: int(size) for role, size in spec.full_sizes(layer).items()}
        own = {id(tensor): name for name, tensor in layer.named_parameters(include_sublayers=False)}
        names = {name for key, name in own.items() if name in spec.params}
        tied = frozenset(name for key, name in own.items() if key in seen)
        seen.update(own)
        roles = {name: spec.roles(layer, name) for name in spec.params if name in names}
        found[path] = _Counted(spec, full, roles, tied, int(getattr(layer, spec.head_dim, 0)))
    return found


def _uncounted_params(model: nn.Layer, layers: Mapping[str, _Counted]) -> int:
    """How many parameters are in no layer with a row; kernel transforms, which export merges, are in one."""
    by_path = dict(model.named_sublayers(include_self=True))
    rows = {id(by_path[path]) for path in layers}
    counted = {id(tensor) for path in layers for tensor in by_path[path].parameters(include_sublayers=False)}
    found = {
        id(tensor): int(tensor.size)
        for layer in by_path.values()
        if id(layer) not in rows
        for tensor in layer.parameters(include_sublayers=False)
    }
    return sum(size for key, size in found.items() if key not in counted)


def _stacks(model: nn.Layer, space: SearchSpace) -> dict[str, Axis]:
    """The axis of each list of layers that gets shorter, by the list's path."""
    by_path = dict(model.named_sublayers(include_self=True))
    return {
        slot.layer: axis
        for axis in space.axes
        for slot in axis.slots
        if axis.task == DEPTH and isinstance(by_path[slot.layer], nn.LayerList)
    }


@contextmanager
def _watched(model: nn.Layer, layers: Mapping[str, _Counted]) -> Iterator[dict[str, list[paddle.Tensor]]]:
    """Inside the block, the outputs of layers are noted by path."""
    by_path = dict(model.named_sublayers(include_self=True))
    noted: dict[str, list[paddle.Tensor]] = {}
    hooks = []
    for path in layers:

        def note(layer: nn.Layer, inputs: Any, output: Any, path: str = path) -> None:
            noted.setdefault(path, []).extend(split(output)[0][:1])

        hooks.append(by_path[path].register_forward_post_hook(cast(Any, note)))
    try:
        yield noted
    finally:
        for hook in hooks:
            hook.remove()


def _positions(
    layers: Mapping[str, _Counted],
    sizes: Mapping[str, Mapping[str, int]],
    outputs: Mapping[str, Sequence[paddle.Tensor]],
) -> dict[str, _Use]:
    """At how many positions each layer worked."""
    found = {}
    for path, layer in layers.items():
        if layer.spec.qk_projections is not None:
            query, key = (outputs.get(f"{path}.{name}", ()) for name in layer.spec.qk_projections)
            pairs = sum(
                math.prod(one.shape[:-1]) * int(other.shape[-2]) for one, other in zip(query, key, strict=False)
            )
            if pairs:
                found[path] = _Use(pairs, query[0].element_size())
        elif "out" in layer.full and path in outputs:
            entries = sum(int(tensor.size) for tensor in outputs[path])
            found[path] = _Use(entries // max(1, sizes[path]["out"]), outputs[path][0].element_size())
    return found
