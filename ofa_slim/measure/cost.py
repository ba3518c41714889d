"""What a sub-network costs: parameters, multiply-accumulates and activations, counted without building it.

Everything is counted against the rows of the layers (`LayerSpec`), so a sub-network in the supernet and the model that
is exported from it are counted by the same sums; only where the sizes come from differs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
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
            norm. Beyond what that counts: norms other than batch norms, and attention's two products. Activation
            functions, pooling and what a forward computes by itself count nothing.
        activation_bytes: the outputs of all linear layers, convolutions, norms and embeddings in one forward, and the
            scores of attention. A training step keeps about that much; inference less.
        working_bytes: the inputs and outputs of the layer that has most of them; of attention its queries and scores.
            Inference needs that much at least beside the weights.
        matrix_params: those of `params` that are in matrices: 8 bits are enough for these.
    """

    params: int
    flops: int
    activation_bytes: int
    working_bytes: int
    matrix_params: int


@dataclass(frozen=True)
class _Use:
    """How a layer was used in one forward.

    Attributes:
        positions: at how many places it computed all its outputs, all calls together; for attention, pairs of places.
        bytes: of one output.
        at_once: at how many places in its largest call.
        read: how many places that call's input has; 0 where that has no channels (numbers of rows of a table).
    """

    positions: int
    bytes: int
    at_once: int
    read: int = 0


_Uses = Mapping[str, _Use]

_Calls = dict[str, list[tuple[paddle.Tensor, paddle.Tensor | None]]]
"""The output of each call of a layer, and its first input, by the layer's path."""


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
        with self._supernet.using(config), _watched(model, self._layers) as calls:
            self._example.call(model, **self._supernet.forward_arguments(config))
        sizes = {
            path: {**layer.full, **{role: length(extent) for role, extent in extents.get(path, {}).items()}}
            for path, layer in self._layers.items()
        }
        return _positions(self._layers, sizes, calls)


def measured_cost(model: nn.Layer, example: Example, **call: Any) -> Cost:
    """The cost of a plain model as it stands, counted by running it once.

    Args:
        model: a plain model, exported or not.
        example: one call of it.
        call: what it is given beside.
    """
    layers = _counted_layers(model)
    with _watched(model, layers) as calls:
        example.call(model, **call)
    sizes = {path: layer.full for path, layer in layers.items()}
    return _total(layers, sizes, _positions(layers, sizes, calls), _uncounted_params(model, layers))


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

    def inputs(self, sizes: Mapping[str, int]) -> int:
        """Inputs per place of them: of attention the channels of its queries."""
        if self.spec.qk_projections is not None:
            return self.head_dim * sizes["heads"]
        return sizes.get("in", sizes["out"])


def _total(
    layers: Mapping[str, _Counted], sizes: Mapping[str, Mapping[str, int]], uses: _Uses, other_params: int
) -> Cost:
    params, flops, activations, working, matrices = other_params, 0, 0, 0, 0
    for path, layer in layers.items():
        own = sizes[path]
        for name in layer.params.keys() - layer.tied:
            params += layer.entries(name, own)
            matrices += layer.entries(name, own) if len(layer.params[name]) == 2 else 0
        use = uses.get(path)
        if use is not None:
            flops += use.positions * layer.work(own)
            activations += use.positions * layer.outputs(own) * use.bytes
            working = max(working, use.bytes * (use.at_once * layer.outputs(own) + use.read * layer.inputs(own)))
    return Cost(params, flops, activations, working, matrices)


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
def _watched(model: nn.Layer, layers: Mapping[str, _Counted]) -> Iterator[_Calls]:
    """Inside the block, the outputs and inputs of layers are noted by path."""
    by_path = dict(model.named_sublayers(include_self=True))
    noted: _Calls = {}
    hooks = []
    for path in layers:

        def note(layer: nn.Layer, inputs: Any, output: Any, path: str = path) -> None:
            for first in split(output)[0][:1]:
                noted.setdefault(path, []).append((first, next(iter(split(inputs)[0]), None)))

        hooks.append(by_path[path].register_forward_post_hook(cast(Any, note)))
    try:
        yield noted
    finally:
        for hook in hooks:
            hook.remove()


def _positions(
    layers: Mapping[str, _Counted], sizes: Mapping[str, Mapping[str, int]], calls: _Calls
) -> dict[str, _Use]:
    """At how many positions each layer worked."""
    found = {}
    for path, layer in layers.items():
        if layer.spec.qk_projections is not None:
            query, key = (
                [output for output, _ in calls.get(f"{path}.{name}", ())] for name in layer.spec.qk_projections
            )
            places = [(math.prod(one.shape[:-1]), int(other.shape[-2])) for one, other in zip(query, key, strict=False)]
            pairs = [rows * length for rows, length in places]
            if pairs:
                found[path] = _Use(sum(pairs), query[0].element_size(), max(pairs), max(rows for rows, _ in places))
        elif "out" in layer.full and path in calls:
            own = sizes[path]
            outputs = [int(output.size) // max(1, own["out"]) for output, _ in calls[path]]
            read = [int(given.size) // max(1, layer.inputs(own)) for _, given in calls[path] if given is not None]
            most = 0 if "rows" in own else max(read, default=0)
            found[path] = _Use(sum(outputs), calls[path][0][0].element_size(), max(outputs), most)
    return found
