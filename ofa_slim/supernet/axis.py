"""`Axis`: one elastic dimension of a *model*, with the parts of its layers that it cuts.

Layers whose widths must agree share one axis, so an inconsistent sub-network cannot be written down.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from ofa_slim.errors import ConfigError, IllegalSubnetError
from ofa_slim.supernet.spec import channels_of

KERNEL, WIDTH, HIDDEN, DEPTH = "kernel_size", "width", "hidden_size", "depth"
TASKS = (KERNEL, WIDTH, HIDDEN, DEPTH)


@dataclass(frozen=True)
class Slot:
    """One role of one layer that an axis cuts.

    A slot keeps the entries ``[start, start + size * unit)`` of the role for each of its starts: most have one,
    grouped channels one per group, concatenated ones one per part.

    Attributes:
        layer: attribute path of the layer in the model.
        role: the role, as in the layer's `LayerSpec`.
        unit: channels per step of the axis (a head is `head_dim` channels).
        starts: the first entry of each range, ascending.
        centred: for kernels, the full size, from both sides of which entries are cut; else None.
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
class Bypass:
    """How a sub-layer is left out whose axis has the size 0: what remains of it is the bias of its output matrix.

    Attributes:
        matrix: path of the output matrix.
        output: path of the layer that then returns the bias: the matrix itself, or the attention that it is in.
        input: path of the layer that then hands on next to nothing; "" where `output` holds all of the sub-layer.
    """

    matrix: str
    output: str
    input: str = ""


@dataclass(frozen=True)
class Axis:
    """One elastic dimension of a model.

    Attributes:
        name: such as ``"encoder.3.heads"``.
        size: its full size, in units (heads, neurons, layers).
        choices: the sizes that sampling picks from, ascending.
        slots: what it cuts; the first names it in published dictionaries.
        task: the task of progressive shrinking it belongs to, one of `TASKS`.
        whole: whether a ratio must give a whole number of units (heads) or is rounded down (channels).
        original: the size before the model was made larger; by default the full size.
        fixed_reason: why this axis cannot shrink; empty if it can.
        one_share: the size that a ratio of 1 means; by default the original one.
        bypasses: of the sub-layers that are left out at size 0; without any, the smallest size is 1.
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
    bypasses: tuple[Bypass, ...] = ()

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
        whole = isinstance(size, (int, np.integer)) and not isinstance(size, bool)
        if not whole or not self.least <= int(cast(Any, size)) <= self.size:
            raise IllegalSubnetError(
                f"axis {self.name!r}: size {size!r} is not a whole number between {self.least} and {self.size}"
            )
        return int(cast(Any, size))

    @property
    def least(self) -> int:
        """The smallest size: 0 where the whole sub-layer can be left out, else 1."""
        return 0 if self.bypasses else 1

    def from_ratio(self, ratio: float) -> int:
        """The size of a share: ``max(1, floor(ratio * one_share))``, or exactly ``ratio * one_share``.

        Raises: IllegalSubnetError for a ratio that is not above 0 (or 0, where a sub-layer can be left out), gives more
            than the full size, or does not give a whole number where one is needed.
        """
        largest = self.size / self.one_share
        if ratio == 0 and self.least == 0 and not isinstance(ratio, bool):
            return 0
        if isinstance(ratio, bool) or not isinstance(ratio, (int, float, np.number)) or not 0 < ratio <= largest:
            raise IllegalSubnetError(
                f"axis {self.name!r}: expand_ratio {ratio!r} is not a number "
                f"{'of at least 0' if self.least == 0 else 'above 0'} and at most {largest:g}"
            )
        size = channels_of(ratio, self.one_share)
        if self.whole and abs(ratio * self.one_share - size) > 1e-6:
            legal = ", ".join(f"{n / self.one_share:.4g}" for n in range(1, self.size + 1))
            raise IllegalSubnetError(
                f"axis {self.name!r}: expand_ratio {ratio} of {self.one_share} is not a whole number; "
                f"the ratios that give one are {legal}"
            )
        return size

    def nearest(self, ratio: float) -> int:
        """The size nearest to a share of the full size; raises `IllegalSubnetError` for an illegal one."""
        return self.check(round(ratio * self.size))

    def ratio_of(self, size: int) -> float:
        """The ratio that gives a size."""
        return size / self.one_share

    def from_channels(self, channels: int, slot: Slot | None = None) -> int:
        """The size at which a layer on this axis has so many output channels.

        Args:
            channels: the layer's output channels.
            slot: the layer's slot; by default the first one.

        Raises: IllegalSubnetError where no size gives that number.
        """
        slot = slot or (self.slots[0] if self.slots else Slot(self.name, "out"))
        unit = slot.unit * len(slot.starts)
        full = self.size * unit
        if (
            isinstance(channels, bool)
            or not isinstance(channels, (int, np.integer))
            or not self.least <= channels <= full
        ):
            raise IllegalSubnetError(
                f"axis {self.name!r}: channel {channels!r} is not a whole number between {self.least} and {full}"
            )
        if channels % unit:
            raise IllegalSubnetError(f"axis {self.name!r}: channel {channels} is not a multiple of {unit}")
        return int(channels) // unit

    @property
    def full(self) -> int:
        """The default size: the full one, or the original one of an axis that cannot shrink."""
        return self.original if self.fixed_reason else self.size

    @property
    def elastic(self) -> bool:
        """Whether there is another choice than the full size."""
        return self.choices != (self.full,)


@dataclass(frozen=True)
class Fixed:
    """A layer whose width or kernel is not elastic, and why."""

    layer: str
    reason: str
