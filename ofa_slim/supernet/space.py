"""`SearchSpace`: the axes of one model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from ofa_slim.base.checks import check_kind
from ofa_slim.errors import ConfigError, IllegalSubnetError, nearest
from ofa_slim.supernet.axis import DEPTH, TASKS, WIDTH, Axis, Fixed
from ofa_slim.supernet.spec import Extent, as_extent, runs_of
from ofa_slim.supernet.subnet_config import SubnetConfig


class SearchSpace:
    """The axes of one model.

    Args:
        axes: every axis; one with a single choice is never sampled.
        fixed: layers on no axis, with the reason.
        layouts: ``{(layer path, role): position of every entry}`` for roles whose entries are not stored in the order
            of their slots, as in a model that was made larger.
    """

    def __init__(
        self,
        axes: Iterable[Axis],
        fixed: Iterable[Fixed] = (),
        layouts: Mapping[tuple[str, str], Sequence[int]] | None = None,
    ) -> None:
        self.axes = tuple(axes)
        self.fixed = tuple(fixed)
        self.layouts = dict(layouts or {})
        self._by_name = {axis.name: axis for axis in self.axes}
        if len(self._by_name) != len(self.axes):
            raise ConfigError("two axes share one name")

    def __getitem__(self, name: str) -> Axis:
        """The axis of that name; otherwise raises `IllegalSubnetError` with the nearest name."""
        if name not in self._by_name:
            raise IllegalSubnetError(f"no axis {name!r}{nearest(name, self._by_name)}")
        return self._by_name[name]

    def tasks(self) -> tuple[str, ...]:
        """The tasks of progressive shrinking with an elastic axis."""
        found = {axis.task for axis in self.axes if axis.elastic}
        return tuple(task for task in TASKS if task in found)

    def largest(self) -> SubnetConfig:
        """The whole model."""
        return SubnetConfig({axis.name: axis.full for axis in self.axes})

    def original(self) -> SubnetConfig:
        """The sub-network of the original size: the whole model, unless it was made larger."""
        return SubnetConfig({axis.name: axis.original for axis in self.axes})

    def smallest(self) -> SubnetConfig:
        """The smallest choice of every axis."""
        return SubnetConfig({axis.name: axis.choices[0] for axis in self.axes})

    def uniform(self, width: float, depth: float = 1.0) -> SubnetConfig:
        """The config of one width and depth for the whole model.

        Args:
            width: share of heads, neurons and channels, above 0.
            depth: share of layers, above 0 and at most 1, rounded to the nearest count.

        Raises: IllegalSubnetError for a share that is not possible for this model.
        """
        if width == 0:
            raise IllegalSubnetError(f"width {width!r}: nothing would be left of the model; it is above 0")
        sizes = {}
        for axis in self.axes:
            if axis.task == WIDTH:
                sizes[axis.name] = axis.from_ratio(width)
            elif axis.task == DEPTH:
                sizes[axis.name] = axis.nearest(depth)
        return self.complete(sizes)

    def with_depths(self, shares: Iterable[float]) -> SearchSpace:
        """The same axes with other choices of depth, as shares of the layers, rounded to the nearest count."""
        shares = list(shares)
        return self.with_choices(
            {axis.name: [axis.nearest(share) for share in shares] for axis in self.axes if axis.task == DEPTH}
        )

    def sample(self, rng: np.random.Generator, offers: Mapping[str, int | None] | None = None) -> SubnetConfig:
        """A random sub-network, every choice of an axis equally likely.

        Args:
            rng: the source of randomness.
            offers: per task, how many of its largest choices are used (None: all); a task left out runs in full.
                Without `offers` all choices of all axes are used.
        """
        check_kind(rng, np.random.Generator, "rng", ConfigError)
        sizes = {}
        for axis in self.axes:
            if offers is None or axis.task in offers:
                count = None if offers is None else offers[axis.task]
                offered = axis.choices if count is None else axis.choices[-count:]
                sizes[axis.name] = int(offered[rng.integers(len(offered))])
            else:
                sizes[axis.name] = axis.full
        return SubnetConfig(sizes)

    def complete(self, sizes: Mapping[str, int]) -> SubnetConfig:
        """A config of this space with the axes left out at full size; checks every size.

        Raises: IllegalSubnetError for an unknown axis or an illegal size.
        """
        check_kind(sizes, Mapping, "a config", IllegalSubnetError)
        checked = {name: self[name].check(size) for name, size in sizes.items()}
        return SubnetConfig({axis.name: checked.get(axis.name, axis.full) for axis in self.axes})

    def layer_sizes(self, config: Mapping[str, int]) -> dict[str, dict[str, Extent]]:
        """The part of each layer that runs under a config.

        Returns: ``{layer path: {role: extent}}`` for every slot of every axis.
        """
        ranges: dict[str, dict[str, list[tuple[int, int]]]] = {}
        for axis in self.axes:
            for slot in axis.slots:
                roles = ranges.setdefault(slot.layer, {})
                roles[slot.role] = roles.get(slot.role, []) + slot.ranges(config[axis.name])
        return {
            path: {role: self._extent(path, role, parts) for role, parts in roles.items()}
            for path, roles in ranges.items()
        }

    def _extent(self, path: str, role: str, ranges: list[tuple[int, int]]) -> Extent:
        layout = self.layouts.get((path, role))
        if layout is None:
            return as_extent(ranges)
        places = [layout[entry] for start, stop in sorted(ranges) for entry in range(start, stop)]
        return runs_of(places)

    def replaced(self, axes: Iterable[Axis], fixed: Iterable[Fixed] | None = None) -> SearchSpace:
        """The same space with other axes, and other fixed layers if given."""
        return SearchSpace(axes, self.fixed if fixed is None else fixed, self.layouts)

    def with_choices(self, choices: Mapping[str, Iterable[int]]) -> SearchSpace:
        """The same axes with other choices, ``{axis name: sizes}``; axes left out keep theirs."""
        new = {name: replace(self[name], choices=tuple(sizes)) for name, sizes in choices.items()}
        return self.replaced(new.get(axis.name, axis) for axis in self.axes)

    def explain(self) -> str:
        """A readable text: each axis with its choices and layers, and what stays fixed and why."""
        lines = [f"{len(self.axes)} axes, {sum(axis.elastic for axis in self.axes)} of them elastic"]
        for axis in self.axes:
            choices = ", ".join(map(str, axis.choices)) if axis.elastic else f"fixed at {axis.full}"
            layers = ", ".join(dict.fromkeys(slot.layer for slot in axis.slots)) or "the model's forward"
            lines.append(f"  {axis.name} ({axis.task}, full size {axis.size}): {choices} <- {layers}")
        if self.fixed:
            lines.append(f"{len(self.fixed)} fixed widths and kernels")
            lines.extend(f"  {fixed.layer}: {fixed.reason}" for fixed in self.fixed)
        return "\n".join(lines)

    def __repr__(self) -> str:
        """A short summary; see `explain` for everything."""
        return f"SearchSpace({len(self.axes)} axes, {len(self.fixed)} fixed layers)"
