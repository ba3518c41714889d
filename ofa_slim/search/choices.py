"""A search space as optimisers see it: each elastic axis is a number that counts its choices, the smallest first."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from optuna.distributions import IntDistribution

from ofa_slim.errors import IllegalSubnetError
from ofa_slim.supernet.axis import DEPTH, WIDTH, Axis
from ofa_slim.supernet.layers import kept_layers
from ofa_slim.supernet.space import SearchSpace
from ofa_slim.supernet.subnet_config import SubnetConfig

ChoiceIndices = dict[str, int]
"""For each elastic axis, which of its choices; 0 is the smallest."""


class Choices:
    """The elastic axes of a space and the choices of each.

    Args:
        space: the axes; those with one choice keep it.

    Attributes:
        axes: the elastic ones.
    """

    def __init__(self, space: SearchSpace) -> None:
        self.space = space
        self.axes = tuple(axis for axis in space.axes if axis.elastic and len(axis.choices) > 1)
        self._rest = {axis.name: axis.choices[-1] for axis in space.axes if len(axis.choices) == 1}
        self._inside = dict(_inside_stacks(space))

    @property
    def distributions(self) -> dict[str, IntDistribution]:
        """What an optimiser draws for each axis."""
        return {axis.name: IntDistribution(0, len(axis.choices) - 1) for axis in self.axes}

    @property
    def count(self) -> int:
        """How many sub-networks there are."""
        return math.prod(len(axis.choices) for axis in self.axes)

    def config(self, numbers: Mapping[str, int]) -> SubnetConfig:
        """The sub-network of some numbers.

        Layers that its depth drops have their smallest sizes, so that configs which run the same are the same.
        """
        chosen = {axis.name: axis.choices[numbers[axis.name]] for axis in self.axes}
        config = self.space.complete({**self._rest, **chosen})
        idle = {
            name: self.space[name].choices[0]
            for name, (depth, number) in self._inside.items()
            if number not in kept_layers(config[depth.name], depth.size)
        }
        return SubnetConfig({**config, **idle}) if idle else config

    def numbers(self, config: Mapping[str, int]) -> ChoiceIndices:
        """The numbers of a sub-network; raises `IllegalSubnetError` where a size is not among the choices."""
        found = {}
        for axis in self.axes:
            if config[axis.name] not in axis.choices:
                raise IllegalSubnetError(f"axis {axis.name!r}: size {config[axis.name]} is not one of {axis.choices}")
            found[axis.name] = axis.choices.index(config[axis.name])
        return found

    def smallest(self) -> ChoiceIndices:
        """The smallest choice of every axis."""
        return {axis.name: 0 for axis in self.axes}

    def sample(self, rng: np.random.Generator) -> ChoiceIndices:
        """Random numbers, every choice equally likely."""
        return {axis.name: int(rng.integers(len(axis.choices))) for axis in self.axes}

    def mutated(self, numbers: Mapping[str, int], rng: np.random.Generator) -> ChoiceIndices:
        """The same with one axis at another of its choices."""
        axis = self.axes[rng.integers(len(self.axes))]
        others = [number for number in range(len(axis.choices)) if number != numbers[axis.name]]
        return {**numbers, axis.name: int(rng.choice(others))}

    def lower(self, numbers: Mapping[str, int], rng: np.random.Generator) -> ChoiceIndices | None:
        """The same with a random axis one choice smaller; None where all are at their smallest."""
        able = [axis.name for axis in self.axes if numbers[axis.name] > 0]
        if not able:
            return None
        name = able[rng.integers(len(able))]
        return {**numbers, name: numbers[name] - 1}

    def encoded(self, configs: Sequence[Mapping[str, int]]) -> np.ndarray:
        """What a regressor learns from: the share of its full size that each axis keeps, float64 [configs, axes]."""
        return np.array([[config[axis.name] / axis.full for axis in self.axes] for config in configs], dtype=float)

    def depths(self) -> list[dict[str, int]]:
        """The sizes of the depths at one share for all of them, the largest first; no sizes where none is elastic."""
        return _common(self.axes, DEPTH)

    def uniform(self) -> Iterator[SubnetConfig]:
        """Every sub-network of one share for all widths at one share for all depths, the largest first."""
        widths = _common(self.axes, WIDTH)
        kept = dict(self.space.largest())
        for depth in self.depths():
            for width in widths:
                yield self.config(self.numbers({**kept, **depth, **width}))


def _inside_stacks(space: SearchSpace) -> Iterator[tuple[str, tuple[Axis, int]]]:
    """The axes that cut a single layer of a stack: their names, with the stack's depth and the number of the layer."""
    for depth in (axis for axis in space.axes if axis.task == DEPTH):
        for stack in (slot.layer for slot in depth.slots):
            for axis in space.axes:
                places = {slot.layer.removeprefix(f"{stack}.").partition(".")[0] for slot in axis.slots}
                within = all(slot.layer.startswith(f"{stack}.") for slot in axis.slots)
                if within and len(places) == 1 and (number := places.pop()).isdigit():
                    yield axis.name, (depth, int(number))


def _common(axes: Sequence[Axis], task: str) -> list[ChoiceIndices]:
    """The sizes at which all axes of a task keep the same share, the largest first; no sizes where there are none."""
    own = [axis for axis in axes if axis.task == task]
    if not own:
        return [{}]
    shares = {size / axis.full for axis in own for size in axis.choices}
    found = []
    for share in sorted(shares, reverse=True):
        sizes = {axis.name: max(1, math.floor(share * axis.full + 1e-6)) for axis in own}
        if all(sizes[axis.name] in axis.choices for axis in own):
            found.append(sizes)
    return found


def rounded(space: SearchSpace, multiple: int) -> SearchSpace:
    """The same space with widths that are multiples of `multiple` channels, as hardware likes them.

    Every choice is moved to the nearest multiple that the axis can have; the full size and 0 stay as they are, and so
    does an axis where no multiple fits.

    Args:
        space: the axes with their choices.
        multiple: channels, at least 1.
    """
    changed = {}
    for axis in space.axes:
        if axis.task == WIDTH and axis.elastic:
            changed[axis.name] = sorted({_nearest_multiple(axis, size, multiple) for size in axis.choices})
    return space.with_choices(changed)


def _nearest_multiple(axis: Axis, size: int, multiple: int) -> int:
    unit = axis.slots[0].unit if axis.slots else 1
    step = multiple // math.gcd(unit, multiple)
    if not size or size == axis.full or step > axis.full:
        return size
    return min(max(step, step * round(size / step)), axis.full // step * step)
