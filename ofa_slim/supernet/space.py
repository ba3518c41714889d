"""What a sub-network is: `Axis`, `SearchSpace`, `SubnetConfig`.

An `Axis` is one elastic dimension of the *model*; layers whose widths must agree share one, so an
inconsistent sub-network cannot be written down.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ofa_slim.errors import ConfigError, IllegalSubnetError, nearest
from ofa_slim.supernet.spec import Extent, as_extent, runs_of

KERNEL, WIDTH, HIDDEN, DEPTH = "kernel_size", "width", "hidden_size", "depth"
TASKS = (KERNEL, WIDTH, HIDDEN, DEPTH)


@dataclass(frozen=True)
class Slot:
    """One role of one layer that an axis cuts.

    Of the role's entries, those of a slot are ``[start, start + size * unit)`` for each of its starts: one for
    most, several where channels are grouped (each group is cut) or concatenated (each part begins elsewhere).

    Attributes:
        layer: attribute path of the layer in the model.
        role: the role, as in the layer's `LayerSpec`.
        unit: channels per step of the axis (a head is `head_dim` channels).
        starts: where its entries begin, ascending.
        centred: for kernels, cut from both sides around the centre of as many entries.
    """

    layer: str
    role: str
    unit: int = 1
    starts: tuple[int, ...] = (0,)
    centred: int | None = None

    @property
    def is_output(self) -> bool:
        """Whether these are outputs of the layer."""
        return self.role in ("out", "group_out")

    def ranges(self, size: int) -> list[tuple[int, int]]:
        """The entries of a size, as ranges."""
        if self.centred is not None:
            start = (self.centred - size) // 2
            return [(start, start + size)]
        return [(start, start + size * self.unit) for start in self.starts]


@dataclass(frozen=True)
class Axis:
    """One elastic dimension of a model.

    Attributes:
        name: such as ``"encoder.3.heads"``.
        size: its full size, in units (heads, neurons, layers).
        choices: the sizes that sampling picks from, ascending.
        slots: what it cuts; the first is the layer that stands for it in published dictionaries.
        task: the task of progressive shrinking it belongs to, one of `TASKS`.
        whole: whether a ratio must give a whole number of units (heads) or is rounded down (channels).
        original: the size that the model had before it was grown; by default the full size.
        fixed_reason: why it always has its original size, where it must.
        one_share: the size that a ratio of 1 means; by default the original one.
    """

    name: str
    size: int
    choices: tuple[int, ...]
    slots: tuple[Slot, ...] = ()
    task: str = WIDTH
    whole: bool = False
    original: int = 0
    fixed_reason: str = ""
    one_share: int = 0

    def __post_init__(self) -> None:
        """Checks the choices, which come from users."""
        object.__setattr__(self, "original", self.original or self.size)
        object.__setattr__(self, "one_share", self.one_share or self.original)
        if not self.choices:
            raise ConfigError(f"axis {self.name!r}: no choices given")
        for choice in self.choices:
            self.check(choice)
        object.__setattr__(self, "choices", tuple(sorted(set(self.choices))))

    def check(self, size: object) -> int:
        """Returns a legal size as an int; raises `IllegalSubnetError` for any other value."""
        if self.fixed_reason and size != self.original:
            raise IllegalSubnetError(f"axis {self.name!r}: size {size!r} is not {self.original}: {self.fixed_reason}")
        if isinstance(size, bool) or not isinstance(size, (int, np.integer)) or not 1 <= size <= self.size:
            raise IllegalSubnetError(
                f"axis {self.name!r}: size {size!r} is not a whole number between 1 and {self.size}"
            )
        return int(size)

    def from_ratio(self, ratio: float) -> int:
        """The size of a share: ``max(1, floor(ratio * one_share))``, or exactly ``ratio * one_share``.

        Raises: IllegalSubnetError for a ratio that is not above 0 or asks for more than the full size, or that
            gives no whole number where one is needed.
        """
        largest = self.size / self.one_share
        if isinstance(ratio, bool) or not isinstance(ratio, (int, float, np.number)) or not 0 < ratio <= largest:
            raise IllegalSubnetError(
                f"axis {self.name!r}: expand_ratio {ratio!r} is not a number above 0 and at most {largest:g}"
            )
        # A ratio such as 1/3 is a rounded number itself, so 1/3 of 12 must still count as 4.
        size = max(1, math.floor(ratio * self.one_share + 1e-6))
        if self.whole and abs(ratio * self.one_share - size) > 1e-6:
            legal = ", ".join(f"{n / self.one_share:.4g}" for n in range(1, self.size + 1))
            raise IllegalSubnetError(
                f"axis {self.name!r}: expand_ratio {ratio} of {self.one_share} is no whole number; "
                f"the ratios that give one are {legal}"
            )
        return size

    def nearest(self, ratio: float) -> int:
        """The size nearest to a share of the full one; raises `IllegalSubnetError` where that is none."""
        return self.check(round(ratio * self.size))

    def ratio_of(self, size: int) -> float:
        """The ratio that gives a size."""
        return size / self.one_share

    def from_channels(self, channels: int, slot: Slot | None = None) -> int:
        """The size at which a layer on this axis has that many output channels.

        Args:
            channels: of the layer.
            slot: what the axis cuts of the layer; that of its first layer by default.

        Raises: IllegalSubnetError where no size gives that.
        """
        slot = slot or (self.slots[0] if self.slots else Slot(self.name, "out"))
        unit = slot.unit * len(slot.starts)
        full = self.size * unit
        if isinstance(channels, bool) or not isinstance(channels, (int, np.integer)) or not 1 <= channels <= full:
            raise IllegalSubnetError(
                f"axis {self.name!r}: channel {channels!r} is not a whole number between 1 and {full}"
            )
        if channels % unit:
            raise IllegalSubnetError(f"axis {self.name!r}: channel {channels} is not a multiple of {unit}")
        return int(channels) // unit

    @property
    def full(self) -> int:
        """The size that it has where nothing else is said: all, or the original one where it is held."""
        return self.original if self.fixed_reason else self.size

    @property
    def elastic(self) -> bool:
        """Whether sampling can pick anything but the full size."""
        return self.choices != (self.full,)


class SubnetConfig(Mapping[str, int]):
    """One size per axis: frozen, hashable, JSON both ways.

    Args:
        sizes: ``{axis name: size}``, sizes in units of the axis, each at least 1.

    Raises: IllegalSubnetError for a name or a size that no axis could have.
    """

    __slots__ = ("_hash", "_sizes")

    def __init__(self, sizes: Mapping[str, int]) -> None:
        for name, size in sizes.items():
            if not isinstance(name, str):
                raise IllegalSubnetError(f"axis name {name!r} is not a text")
            if isinstance(size, bool) or not isinstance(size, (int, np.integer)) or size < 1:
                raise IllegalSubnetError(f"axis {name!r}: size {size!r} is not a whole number of at least 1")
        self._sizes = {name: int(size) for name, size in sizes.items()}
        self._hash = hash(frozenset(self._sizes.items()))

    def __getitem__(self, name: str) -> int:
        """The size of an axis."""
        return self._sizes[name]

    def __iter__(self) -> Iterator[str]:
        """Iterates over the axis names."""
        return iter(self._sizes)

    def __len__(self) -> int:
        """The number of axes."""
        return len(self._sizes)

    def __hash__(self) -> int:
        """Equal configs have equal hashes, whatever the order of their axes."""
        return self._hash

    def __eq__(self, other: object) -> bool:
        """Equal when every axis has the same size."""
        return self._sizes == other._sizes if isinstance(other, SubnetConfig) else NotImplemented

    def __repr__(self) -> str:
        """A text that evaluates to an equal config."""
        return f"SubnetConfig({self._sizes})"

    def to_json(self) -> str:
        """One line of JSON, axes in order of their names."""
        return json.dumps(self._sizes, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> SubnetConfig:
        """Reads what `to_json` wrote; raises `IllegalSubnetError` for anything else."""
        try:
            sizes = json.loads(text)
        except json.JSONDecodeError as error:
            raise IllegalSubnetError(f"not the JSON of a sub-network: {error}") from error
        if not isinstance(sizes, dict):
            raise IllegalSubnetError(f"not the JSON of a sub-network: {text[:40]!r} is no object")
        return cls(sizes)


@dataclass(frozen=True)
class Fixed:
    """A layer whose width, or kernel, is not elastic, and why."""

    layer: str
    reason: str


class SearchSpace:
    """The axes of one model.

    Args:
        axes: every axis; those with one choice are part of it but never sampled.
        fixed: layers that belong to no axis, with the reason.
        layouts: for a role of a layer whose entries are not kept in the order of its slots, where each is:
            ``{(layer path, role): place of every entry}``. A model that was grown has such.
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
        """The axis of that name; raises `IllegalSubnetError` naming the nearest where there is none."""
        if name not in self._by_name:
            raise IllegalSubnetError(f"no axis {name!r}{nearest(name, self._by_name)}")
        return self._by_name[name]

    def tasks(self) -> tuple[str, ...]:
        """The tasks of progressive shrinking that have anything elastic here."""
        found = {axis.task for axis in self.axes if axis.elastic}
        return tuple(task for task in TASKS if task in found)

    def largest(self) -> SubnetConfig:
        """The whole model."""
        return SubnetConfig({axis.name: axis.full for axis in self.axes})

    def original(self) -> SubnetConfig:
        """The sub-network of the model's own size: the whole model, unless it was made larger."""
        return SubnetConfig({axis.name: axis.original for axis in self.axes})

    def smallest(self) -> SubnetConfig:
        """The smallest choice of every axis."""
        return SubnetConfig({axis.name: axis.choices[0] for axis in self.axes})

    def uniform(self, width: float, depth: float = 1.0) -> SubnetConfig:
        """One width and depth for the whole model.

        Args:
            width: share of heads, neurons and channels, above 0.
            depth: share of layers, above 0 and at most 1, rounded to the nearest count.

        Raises: IllegalSubnetError for a share that the model cannot have.
        """
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
            offers: per task, how many of its largest choices take part (None: all); a task left out runs
                in full. Without `offers` every choice of every axis takes part.
        """
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
        """A config of this space: axes left out at full size, every size checked.

        Raises: IllegalSubnetError for an axis that is not here or a size that is not legal.
        """
        checked = {name: self[name].check(size) for name, size in sizes.items()}
        return SubnetConfig({axis.name: checked.get(axis.name, axis.full) for axis in self.axes})

    def layer_sizes(self, config: Mapping[str, int]) -> dict[str, dict[str, Extent]]:
        """What of each layer takes part under a config.

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
        """The same space with other axes, and where given other fixed layers."""
        return SearchSpace(axes, self.fixed if fixed is None else fixed, self.layouts)

    def with_choices(self, choices: Mapping[str, Iterable[int]]) -> SearchSpace:
        """The same axes with other choices, ``{axis name: sizes}``; axes left out keep theirs."""
        new = {name: replace(self[name], choices=tuple(sizes)) for name, sizes in choices.items()}
        return self.replaced(new.get(axis.name, axis) for axis in self.axes)

    def explain(self) -> str:
        """A text for people: each axis with its choices and layers, and what stays fixed and why."""
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
        """A short summary; `explain` says all."""
        return f"SearchSpace({len(self.axes)} axes, {len(self.fixed)} fixed layers)"
