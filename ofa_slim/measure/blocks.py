"""The parts of a supernet whose time depends on its sizes: blocks of a stack, and elastic layers outside of stacks.

A *dimension* of a block is a set of axes that cut the same of its roles; the block's time is a function of its
dimensions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import paddle
from paddle import nn

from ofa_slim.base.copies import copied
from ofa_slim.base.examples import Example
from ofa_slim.base.modes import forwards_kept
from ofa_slim.errors import LatencyError
from ofa_slim.supernet.axis import DEPTH, HIDDEN, Axis, Bypass
from ofa_slim.supernet.families import Stack, find_stacks
from ofa_slim.supernet.handle import Supernet, make_plain
from ofa_slim.supernet.layers import cut_layer, kept_layers
from ofa_slim.supernet.omit import above_zero, omitted, omitting
from ofa_slim.supernet.paths import joined, layer_at
from ofa_slim.supernet.space import SearchSpace
from ofa_slim.supernet.spec import spec_of
from ofa_slim.supernet.subnet_config import SubnetConfig

COPIES = 4  # of a block of a stack in one program: its own weights each, as the layers of a model have


@dataclass(frozen=True)
class Dimension:
    """Axes that cut the same roles of a block.

    Attributes:
        axes: how many channels (heads, ...) one step of each axis is, by the axis's name.
    """

    axes: Mapping[str, int]

    def size(self, config: Mapping[str, int]) -> int:
        """The size of the dimension under a config."""
        return sum(step * config[name] for name, step in self.axes.items())


@dataclass(frozen=True)
class Dropped:
    """Which layers of a stack a block is, and so when the depth drops it.

    Attributes:
        axis: name of the stack's depth.
        number: of the block.
        full: how many blocks there are.
    """

    axis: str
    number: int
    full: int

    def share(self, config: Mapping[str, int]) -> float:
        """How much of the block's time is left: all or nothing."""
        return float(self.number in kept_layers(config[self.axis], self.full))


@dataclass(frozen=True)
class Repeated:
    """That a block is called as often as its stack is deep.

    Attributes:
        axis: name of the stack's depth.
        full: how often it is called at full depth.
    """

    axis: str
    full: int

    def share(self, config: Mapping[str, int]) -> float:
        """How much of the block's time is left."""
        return config[self.axis] / self.full


@dataclass(frozen=True)
class Block:
    """A block of a model.

    Attributes:
        path: of the layer.
        kind: blocks of one kind take the same time at the same sizes.
        dimensions: what its time depends on.
        additive: whether the dimensions' times add up (the parts of a transformer block), or depend on each other (the
            inputs and outputs of a convolution).
        depth: for a block of a stack that gets shorter, what that does to it.
        across: the hidden size, which every part of the block has, where it is elastic: the times of the dimensions are
            others at each of its sizes.
    """

    path: str
    kind: str
    dimensions: tuple[Dimension, ...]
    additive: bool
    depth: Dropped | Repeated | None = None
    across: Dimension | None = None

    def sizes(self, config: Mapping[str, int]) -> tuple[int, ...]:
        """The size of each dimension under a config, that of `across` first."""
        first = () if self.across is None else (self.across,)
        return tuple(dimension.size(config) for dimension in (*first, *self.dimensions))

    def share(self, config: Mapping[str, int]) -> float:
        """How many of its calls at full depth are left in a sub-network, as a share."""
        return 1.0 if self.depth is None else self.depth.share(config)


@dataclass(frozen=True)
class BlockCall:
    """A block, and how it is called.

    Attributes:
        block: the block.
        example: its first call at full size.
        calls: how many calls there are in one forward.
        whole: one call of the model, where an axis of the block may also cut what comes into it.
    """

    block: Block
    example: Example
    calls: int
    whole: Example | None = None


def find_blocks(supernet: Supernet, example: Example) -> list[BlockCall]:
    """The blocks of a supernet, by running it once at full size.

    Raises: LatencyError for an axis that cuts both blocks of a stack and what is outside.
    """
    model, space = supernet.model, supernet.space
    stacks: dict[str, Dropped | Repeated | None] = {}
    for stack in find_stacks(model):
        stacks.update(_depths(stack, space))
    axes_at: dict[str, list[Axis]] = {}
    fed: set[str] = set()  # blocks whose inputs an axis of theirs cuts
    for axis in space.axes:
        if axis.task == DEPTH:
            continue
        inside = {path for path in stacks for slot in axis.slots if slot.layer.startswith(f"{path}.")}
        outside = {slot.layer for slot in axis.slots if not any(slot.layer.startswith(f"{path}.") for path in inside)}
        if axis.task != HIDDEN and inside and any(_works(layer_at(model, path)) for path in outside):
            raise LatencyError(
                f"axis {axis.name!r} cuts blocks of a stack and layers outside it, so blocks cannot be timed alone; "
                "give a budget of parameters or FLOPs instead"
            )
        if outside or len(inside) > 1:  # blocks of one axis may hand on what it cuts, as T5's biases for places
            fed |= inside
        cut = inside | outside if axis.task == HIDDEN else inside or outside
        for path in sorted(cut):
            axes_at.setdefault(path, []).append(axis)
    for path, depth in stacks.items():
        if depth is not None:
            axes_at.setdefault(path, [])
    with supernet.full(), _calls_noted(model, axes_at) as calls:
        example.call(model, **supernet.forward_arguments(space.largest()))
    return [
        _block_call(model, path, axes, path in stacks, stacks.get(path), calls[path], example if path in fed else None)
        for path, axes in axes_at.items()
        if path in calls and (path in stacks or _works(layer_at(model, path)))
    ]


def _depths(stack: Stack, space: SearchSpace) -> dict[str, Dropped | Repeated | None]:
    """What the depth of a stack does to each of its blocks, by path."""
    own = stack.path, joined(stack.path, stack.family.depth[0][0])
    axis = next((axis for axis in space.axes if axis.task == DEPTH for slot in axis.slots if slot.layer in own), None)
    if axis is None:
        return dict.fromkeys(stack.blocks)
    if stack.repeats:
        return dict.fromkeys(stack.blocks, Repeated(axis.name, axis.size))
    return {path: Dropped(axis.name, number, len(stack.blocks)) for number, path in enumerate(stack.blocks)}


def _works(layer: nn.Layer) -> bool:
    """Whether a layer multiplies matrices; norms and look-ups beside it are part of the rest."""
    spec = spec_of(layer)
    return spec is not None and "weight" in spec.macs


def _block_call(
    model: nn.Layer,
    path: str,
    axes: Sequence[Axis],
    stacked: bool,
    depth: Dropped | Repeated | None,
    calls: Sequence[Example],
    whole: Example | None,
) -> BlockCall:
    layer, example = layer_at(model, path), calls[0]
    across = None
    if stacked:
        dimensions = [Dimension({axis.name: 1}) for axis in axes if axis.task != HIDDEN]
        across = next((Dimension({axis.name: 1}) for axis in axes if axis.task == HIDDEN), None)
    else:
        dimensions = _dimensions_of_layer(path, axes)
    arguments = (*example.args, *example.kwargs.values())
    shapes = [list(value.shape) for value in arguments if isinstance(value, paddle.Tensor)]
    state = {key: list(value.shape) for key, value in layer.state_dict().items()}
    all_dimensions = dimensions if across is None else [across, *dimensions]
    sizes = [[axis.choices for axis in axes if axis.name in dimension.axes] for dimension in all_dimensions]
    kind = repr((type(layer).__name__, layer.extra_repr(), state, shapes, sizes, len(calls)))
    return BlockCall(Block(path, kind, tuple(dimensions), stacked, depth, across), example, len(calls), whole)


def _dimensions_of_layer(path: str, axes: Sequence[Axis]) -> list[Dimension]:
    """The dimensions of a layer: its roles, those that the same axes cut as one."""
    roles: dict[str, dict[str, int]] = {}
    for axis in axes:
        for slot in axis.slots:
            if slot.layer == path:
                steps = roles.setdefault(slot.role, {})
                steps[axis.name] = steps.get(axis.name, 0) + slot.unit * len(slot.starts)
    by_axes: dict[frozenset[str], dict[str, int]] = {}
    for steps in roles.values():
        by_axes.setdefault(frozenset(steps), steps)
    return [Dimension(steps) for steps in by_axes.values()]


@contextmanager
def _calls_noted(model: nn.Layer, paths: Iterable[str]) -> Iterator[dict[str, list[Example]]]:
    """Inside the block, the calls of layers are noted by path."""
    noted: dict[str, list[Example]] = {}
    with forwards_kept(model):
        for path in paths:
            layer = layer_at(model, path)

            def noting(*args: Any, forward: Any = layer.forward, path: str = path, **kwargs: Any) -> Any:
                noted.setdefault(path, []).append(Example(args, kwargs))
                return forward(*args, **kwargs)

            vars(layer)["forward"] = noting
        yield noted


def program_of(supernet: Supernet, seen: BlockCall, config: SubnetConfig) -> tuple[nn.Layer, Example]:
    """A block as a plain layer of its own, cut to a config, with the inputs that it gets there."""
    path, extents = seen.block.path, supernet.layer_sizes(config)
    layer = make_plain(copied(layer_at(supernet.model, path)))
    omissions = [
        omitting(layer, Bypass(*(place[len(path) + 1 :] for place in (one.matrix, one.output, one.input))))
        for one in omitted(supernet.space.axes, config)
        if one.output.startswith(f"{path}.")
    ]
    for place, sizes in extents.items():
        if place == path or place.startswith(f"{path}."):
            cut_layer(layer_at(layer, place[len(path) + 1 :]), above_zero(sizes))
    for omit in omissions:
        omit()
    if seen.block.additive:
        return _Chain([copied(layer) for _ in range(COPIES)]), _inputs_at(supernet, seen, config)
    first, *others = seen.example.args
    return layer, Example((_narrowed(layer, first), *others), seen.example.kwargs)


def _inputs_at(supernet: Supernet, seen: BlockCall, config: SubnetConfig) -> Example:
    """What a block of a stack is called with under a config."""
    if seen.whole is None:
        return seen.example
    path = seen.block.path
    with supernet.using(config), _calls_noted(supernet.model, [path]) as calls:
        seen.whole.call(supernet.model, **supernet.forward_arguments(supernet.space.largest()))
    return calls[path][0]


def empty_program(seen: BlockCall) -> tuple[nn.Layer, Example]:
    """Next to nothing: the first input of a block, scaled."""
    return _Scaled(), Example(seen.example.args[:1])


class _Scaled(nn.Layer):
    def __init__(self) -> None:
        super().__init__()
        self.factor = self.create_parameter([1])  # Paddle warns of programs without parameters

    def forward(self, value: paddle.Tensor) -> paddle.Tensor:
        """The input times a number."""
        return value * self.factor


def _narrowed(layer: nn.Layer, value: paddle.Tensor) -> paddle.Tensor:
    """The leading channels of an input, as many as a cut layer takes."""
    width = getattr(layer, "_in_channels", None) or layer.weight.shape[0]
    last = getattr(layer, "_data_format", "NLC")[1] != "C"
    axis = value.ndim - 1 if last else 1
    return paddle.slice(value, [axis], [0], [width])


class _Chain(nn.Layer):
    """Blocks one after the other, each with the further inputs of the first."""

    def __init__(self, layers: Sequence[nn.Layer]) -> None:
        super().__init__()
        self.layers = nn.LayerList(layers)

    def forward(self, value: paddle.Tensor, *args: Any, **kwargs: Any) -> Any:
        """The output of the last one."""
        for layer in self.layers:
            value = layer(value, *args, **kwargs)
            if isinstance(value, (tuple, list)):
                value = value[0]
        return value
