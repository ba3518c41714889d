"""`Family`: a table of the roles of which sub-layers of a block share an axis."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from paddle import nn

from ofa_slim.errors import ConvertError
from ofa_slim.supernet.axis import Axis, Bypass, Fixed, Slot
from ofa_slim.supernet.layers import BiasOnly, ElasticLayer
from ofa_slim.supernet.paths import has_layer, joined, layer_at, layer_or_none
from ofa_slim.supernet.spec import computed_weight, full_class_name, spec_of

Place = tuple[str, str]
"""An attribute path, and a role of the layer there."""


@dataclass(frozen=True)
class BlockAxis:
    """One axis that every block of a stack has.

    Attributes:
        name: the last part of the axis's name.
        counted: ``(path in the block, role)`` whose size is the axis's size.
        slots: ``(path in the block, role)`` of everything it cuts.
        whole: whether a ratio must give a whole number (of heads); where blocks have different sizes it is rounded
            down, as hardly a ratio would do for all of them.
        beside: ``(path in the stack, role)`` of what it cuts outside the blocks. Every block uses such a part, so
            all blocks share the axis.
        doubled: the one of `slots`, if any, that holds the axis twice, one half after the other (a gate beside what it
            multiplies, in one layer).
        fixed: a block -> why the axis cannot be elastic in it; None where it can.
        otherwise: the axis of blocks that lack a layer of this one (with fused projections).
        shared: whether all blocks share the axis; those with something `beside` them do.
        bypass: how the sub-layer is left out at size 0, by paths in the block; None where it cannot be.
    """

    name: str
    counted: Place
    slots: tuple[Place, ...]
    whole: bool = False
    beside: tuple[Place, ...] = ()
    doubled: Place | None = None
    fixed: Callable[[nn.Layer], str | None] = lambda block: None
    otherwise: BlockAxis | None = None
    shared: bool = False
    bypass: Bypass | None = None

    def or_else(self, other: BlockAxis) -> BlockAxis:
        """This axis, or the other one in blocks that lack a layer of this one."""
        return replace(self, otherwise=other)

    def of_block(self, block: nn.Layer) -> BlockAxis:
        """This axis or the one in its place, whichever has all its layers in a block; this one where none has."""
        row: BlockAxis | None = self
        while row is not None:
            if all(has_layer(block, path) for path, _ in row.slots):
                return row
            row = row.otherwise
        return self

    def within(self, layer: nn.Layer, path: str) -> Axis | Fixed:
        """The axis of a lone `layer`, which would be at `path` in a block; or why it has none."""
        places = [(place[len(path) + 1 :], role) for place, role in self.slots]
        counted = self.counted[0][len(path) + 1 :], self.counted[1]
        return _axis(self.name, layer, counted, places, whole=self.whole)

    def place(self, role: str) -> str:
        """The path in the block of the one layer whose `role` it cuts."""
        return next(path for path, cut in self.slots if cut == role)


@dataclass(frozen=True)
class Family:
    """A stack of blocks of one class inside a model.

    A class of another library is named (``"package.module.Class"``), so that the library need not be imported.

    Attributes:
        stack: the class of the stack.
        block: the class of each block; a block with another forward stays as it is.
        layers: path of the blocks in the stack, ``*`` for each entry of a list: ``"layers.*"``.
        heads, ffn: the axes of each block: attention heads, and neurons of the feed-forward part.
        attention: path of the attention in a block.
        stream: ``(path in the block, role)`` of what writes into the residual stream, whose width is the hidden size.
        depth: ``(path in the stack, role)`` of everything that the number of blocks cuts; the first is counted.
        fixed_depth: a stack -> why its depth cannot be elastic; None where it can.
        further: axes of each block beside these two, which run between them: the heads of a cross-attention.
    """

    stack: type[nn.Layer] | str
    block: type[nn.Layer] | str
    layers: str
    heads: BlockAxis
    ffn: BlockAxis
    attention: str
    stream: tuple[Place, ...]
    depth: tuple[Place, ...]
    fixed_depth: Callable[[nn.Layer], str | None] = lambda stack: None
    further: tuple[BlockAxis, ...] = ()

    @property
    def axes(self) -> tuple[BlockAxis, ...]:
        """The axes of each block, in the order in which they run."""
        return self.heads, *self.further, self.ffn

    def holds(self, layer: nn.Layer) -> bool:
        """Whether a layer is a stack of this family."""
        return is_class(layer, self.stack)


@dataclass(frozen=True)
class Stack:
    """One stack in a model: its family, path, short name, and all its blocks by path in the model."""

    family: Family
    path: str
    name: str
    blocks: dict[str, nn.Layer]

    @property
    def repeats(self) -> bool:
        """Whether the depth counts calls of the blocks, and removes none."""
        return not self.family.depth[0][0]


def is_class(layer: nn.Layer, kind: type[nn.Layer] | str) -> bool:
    """Whether a layer is of a class, or of the class of this name; an elastic layer is also of its plain class."""
    if isinstance(kind, type):
        return isinstance(layer, kind)
    spec = spec_of(layer)
    return any(
        f"{one.__module__}.{one.__qualname__}" == kind for one in (type(layer), *((spec.plain,) if spec else ()))
    )


def stack_axes(model: nn.Layer, stack: Stack) -> Iterator[Axis | Fixed]:
    """The axes of one stack at their full sizes, or why a part of it is fixed."""
    family, holder = stack.family, layer_at(model, stack.path)
    elastic = {}
    for number, (path, block) in enumerate(stack.blocks.items()):
        if _own_forward(block, family.block):
            yield Fixed(path, f"{type(block).__name__} has its own forward")
        else:
            elastic[number] = path
    for row in family.axes:
        if row in family.further and not any(has_layer(block, row.counted[0]) for block in stack.blocks.values()):
            continue  # a stack that attends to no other
        if row.beside or row.shared:
            places = [(joined(path, place), role) for path in elastic.values() for place, role in row.slots]
            places += [(joined(stack.path, place), role) for place, role in row.beside]
            counted = [(joined(path, row.counted[0]), row.counted[1]) for path in elastic.values()]
            # All blocks use the parts outside them, so these are cut with all blocks or not at all.
            if counted and len(elastic) == len(stack.blocks):
                yield _axis(f"{stack.name}.{row.name}", model, counted[0], places, whole=row.whole)
    for number, path in elastic.items():
        for row in (row.of_block(stack.blocks[path]) for row in family.axes if not (row.beside or row.shared)):
            if row in family.further and not has_layer(stack.blocks[path], row.counted[0]):
                continue
            fixed = "it is left out" if _is_left_out(stack.blocks[path], row) else row.fixed(stack.blocks[path])
            if fixed is not None:
                yield Fixed(joined(path, row.counted[0]), fixed)
            else:
                places = [(joined(path, place), role) for place, role in row.slots]
                counted_at = (joined(path, row.counted[0]), row.counted[1])
                doubled = row.doubled and (joined(path, row.doubled[0]), row.doubled[1])
                whole = row.whole and not _uneven(stack, row)
                axis = _axis(f"{stack.name}.{number}.{row.name}", model, counted_at, places, doubled, whole)
                yield replace(axis, bypasses=_bypasses(model, path, row)) if isinstance(axis, Axis) else axis
    reason = family.fixed_depth(holder)
    if reason is not None:
        yield Fixed(stack.path, reason)
        return
    places = [(joined(stack.path, place), role) for place, role in family.depth]
    yield _axis(f"{stack.name}.depth", model, places[0], places, whole=True, task="depth")


def _uneven(stack: Stack, row: BlockAxis) -> bool:
    """Whether blocks have different sizes of an axis, as those of an exported sub-network may."""
    path, role = row.counted
    layers = [layer_or_none(block, path) for block in stack.blocks.values()]
    found = [max_sizes(layer) for layer in layers if layer is not None]
    return len({sizes[role] for sizes in found if sizes and role in sizes}) > 1


def stream_writers(stack: Stack) -> list[str]:
    """The paths in the model of what writes into the residual stream, as far as a block has it."""
    bypasses = [(path, row.bypass) for path, _, row in left_out(stack)]
    remains = {joined(path, one.matrix): joined(path, one.output) for path, one in bypasses if one}
    found = []
    for path, block in stack.blocks.items():
        for place, _ in stack.family.stream:
            whole = joined(path, place)
            if whole in remains or has_layer(block, place):
                found.append(remains.get(whole, whole))
    return found


def left_out(stack: Stack) -> Iterator[tuple[str, str, BlockAxis]]:
    """What of a plain model's blocks is left out: path of the block, name of the axis that has size 0, and its row."""
    for number, (path, block) in enumerate(stack.blocks.items()):
        for row in stack.family.axes:
            if _is_left_out(block, row):
                yield path, f"{stack.name}.{number}.{row.name}", row


def _is_left_out(block: nn.Layer, row: BlockAxis) -> bool:
    return row.bypass is not None and isinstance(layer_or_none(block, row.bypass.output), BiasOnly)


def _bypasses(model: nn.Layer, block: str, row: BlockAxis) -> tuple[Bypass, ...]:
    """How the sub-layer of a block is left out; nothing where it cannot be, as without a bias that remains."""
    if row.bypass is None or layer_at(model, joined(block, row.bypass.matrix)).bias is None:
        return ()
    spec = spec_of(layer_at(model, joined(block, row.bypass.output)))
    if spec is None or spec.plain not in (nn.Linear, nn.MultiHeadAttention):  # an attention of its own kind
        return ()
    return (
        Bypass(
            joined(block, row.bypass.matrix),
            joined(block, row.bypass.output),
            row.bypass.input and joined(block, row.bypass.input),
        ),
    )


def max_sizes(layer: nn.Layer) -> dict[str, int] | None:
    """The full sizes of a layer, elastic or plain; None where its type has no row."""
    if isinstance(layer, ElasticLayer):
        return layer.max_sizes
    spec = spec_of(layer)
    return None if spec is None else spec.full_sizes(layer)


def weight_reason(name: str) -> str:
    """Why a layer is fixed whose weight `name` is not a parameter."""
    return f"its {name} is computed anew in each forward, as by weight_norm"


def _own_forward(block: nn.Layer, kind: type[nn.Layer] | str) -> bool:
    # PaddleNLP replaces the forward of Paddle's class, so it is looked up each time.
    return type(block).forward is not kind.forward if isinstance(kind, type) else full_class_name(block) != kind


def attention_heads_axis(
    attention: str,
    projections: tuple[str, str, str, str],
    roles: tuple[str, ...] = ("heads",),
    beside: tuple[Place, ...] = (),
    optional: bool = False,
    name: str = "heads",
) -> BlockAxis:
    """The heads of an attention.

    Args:
        attention: path in the block of the layer that has the roles.
        projections: paths in the block of the query, key, value and output projections.
        roles: of the attention itself that the axis cuts.
        beside: as in `BlockAxis`.
        optional: whether the whole attention can be left out, whose forward then returns only its output.
        name: of the axis.
    """
    query, key, value, output = projections
    slots = ((query, "out"), (key, "out"), (value, "out"), (output, "in"), *((attention, role) for role in roles))
    bypass = Bypass(output, attention) if optional else None
    return BlockAxis(name, (attention, "heads"), slots, whole=True, beside=beside, bypass=bypass)


def ffn_axis(first: str, second: str) -> BlockAxis:
    """The neurons between two feed-forward layers, given by their paths in the block."""
    return BlockAxis("ffn", (first, "out"), ((first, "out"), (second, "in")), bypass=Bypass(second, second, first))


def _axis(
    name: str,
    model: nn.Layer,
    counted: Place,
    places: list[Place],
    doubled: Place | None = None,
    whole: bool = False,
    task: str = "width",
) -> Axis | Fixed:
    sizes = {}
    for path, role in (*places, counted):
        try:
            layer = layer_at(model, path)
        except (AttributeError, KeyError):
            return Fixed(path, "the model has no such layer")
        found = max_sizes(layer)
        if found is None or role not in found:
            return Fixed(path, _uncut_reason(layer))
        computed = computed_weight(layer)
        if computed is not None:
            return Fixed(path, weight_reason(computed))
        sizes[path] = found
    size = sizes[counted[0]][counted[1]]
    slots = []
    for path, role in places:
        parts = 2 if (path, role) == doubled else 1
        unit, rest = divmod(sizes[path][role], size * parts)
        if rest:
            raise ConvertError(f"axis {name!r}: {path} has {sizes[path][role]} {role}, which {size} does not divide")
        slots.append(Slot(path, role, unit, tuple(part * size * unit for part in range(parts))))
    # The first slot names the axis in published dictionaries.
    slots.sort(key=lambda slot: slot.role != "out")
    return Axis(name, size, (size,), tuple(slots), task, whole)


def _uncut_reason(layer: nn.Layer) -> str:
    reason = f"{type(layer).__name__} is not a layer type that can be cut"
    if isinstance(layer, nn.Linear) or any(isinstance(part, nn.Linear) for part in layer.sublayers()):
        return f"{reason}; it computes more than a Linear: where it is an adapter, merge it into a plain Linear first"
    return reason
