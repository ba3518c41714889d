"""What a family table holds: which roles of which sub-layers of a block share an axis."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from paddle import nn

from ofa_slim.errors import ConvertError
from ofa_slim.supernet.layers import ElasticLayer
from ofa_slim.supernet.space import Axis, Fixed, Slot
from ofa_slim.supernet.spec import spec_of


@dataclass(frozen=True)
class BlockAxis:
    """One axis that every block of a stack has.

    Attributes:
        name: the last part of the axis's name.
        counted: ``(path in the block, role)`` whose size is the axis's size.
        slots: ``(path in the block, role)`` of everything it cuts.
        whole: whether a ratio must give a whole number (of heads).
    """

    name: str
    counted: tuple[str, str]
    slots: tuple[tuple[str, str], ...]
    whole: bool = False


@dataclass(frozen=True)
class Family:
    """A stack of like blocks inside a model.

    Attributes:
        stack_class: the layer that holds the stack.
        block_class: the class of each block; a block with another forward stays as it is.
        layers: path in it of the `LayerList` of blocks.
        axes: the axes of each block.
        attention, intermediate, output: paths in a block of the attention and of the two layers of the
            feed-forward part, for scores of heads and neurons.
    """

    stack_class: type[nn.Layer]
    block_class: type[nn.Layer]
    layers: str
    axes: tuple[BlockAxis, ...]
    attention: str
    intermediate: str
    output: str


@dataclass(frozen=True)
class Stack:
    """One stack found in a model: its family, path, short name and blocks (all of them)."""

    family: Family
    path: str
    name: str
    blocks: tuple[nn.Layer, ...]

    @property
    def layers_path(self) -> str:
        """Attribute path of the list of blocks in the model."""
        return joined(self.path, self.family.layers)


def joined(*parts: str) -> str:
    """An attribute path of the parts that are not empty."""
    return ".".join(part for part in parts if part)


def layer_at(model: nn.Layer, path: str) -> nn.Layer:
    """The layer at an attribute path; the path "" is the model itself."""
    for part in path.split(".") if path else ():
        # A stack indexes its active layers only; its children are all of them.
        model = dict(model.named_children())[part] if part.isdigit() else getattr(model, part)
    return model


def stack_axes(model: nn.Layer, stack: Stack) -> Iterator[Axis | Fixed]:
    """The axes of one stack at their full sizes, or why a part of it is fixed."""
    for index, block in enumerate(stack.blocks):
        block_path = joined(stack.layers_path, str(index))
        # PaddleNLP replaces the forward of Paddle's own class, so it is looked up there each time.
        if type(block).forward is not stack.family.block_class.forward:
            yield Fixed(block_path, f"{type(block).__name__} has a forward of its own")
            continue
        for row in stack.family.axes:
            yield _axis(f"{stack.name}.{index}.{row.name}", block, block_path, row)
    depth = (stack.family.layers, "depth")
    row = BlockAxis("depth", counted=depth, slots=(depth, ("", "depth")), whole=True)
    yield _axis(f"{stack.name}.depth", layer_at(model, stack.path), stack.path, row, task="depth")


def max_sizes(layer: nn.Layer) -> dict[str, int] | None:
    """The full sizes of a layer, elastic or plain; None where its type has no row."""
    if isinstance(layer, ElasticLayer):
        return layer.max_sizes
    spec = spec_of(layer)
    return None if spec is None else spec.full_sizes(layer)


def _axis(
    name: str,
    holder: nn.Layer,
    path: str,
    row: BlockAxis,
    task: str = "width",
) -> Axis | Fixed:
    sizes = {}
    for place, _ in (*row.slots, row.counted):
        layer = layer_at(holder, place)
        found = max_sizes(layer)
        if found is None:
            return Fixed(joined(path, place), f"{type(layer).__name__} is not a layer type that can be cut")
        sizes[place] = found
    size = sizes[row.counted[0]][row.counted[1]]
    slots = []
    for place, role in row.slots:
        unit, rest = divmod(sizes[place][role], size)
        if rest:
            raise ConvertError(
                f"axis {name!r}: {joined(path, place)} has {sizes[place][role]} {role}, which {size} does not divide"
            )
        slots.append(Slot(joined(path, place), role, unit))
    # The layer that stands for the axis in published dictionaries comes first.
    slots.sort(key=lambda slot: slot.role != "out")
    return Axis(name, size, (size,), tuple(slots), task, row.whole)
