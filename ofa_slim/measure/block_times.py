"""Measured times of blocks, and the conditions under which they hold."""

from __future__ import annotations

import datetime
import math
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path

import numpy as np
import paddle
from paddle import nn

from ofa_slim.base.threads import threads
from ofa_slim.measure.blocks import Block
from ofa_slim.measure.programs import version_of


@dataclass(frozen=True)
class Conditions:
    """The conditions under which measured times hold.

    Attributes:
        device: the processor's name, or that of the GPU.
        threads: that Paddle was told to use.
        engine: a name in `ENGINES`.
        version: of Paddle, and of the engine where that is not Paddle's.
        model: a hash of the model's structure: its layers and shapes, not its weights.
        inputs: the shape and dtype of each input.
        measured: the day.
    """

    device: str
    threads: int
    engine: str
    version: str
    model: str
    inputs: str
    measured: str = field(default="", compare=False)

    @classmethod
    def here(cls, model: nn.Layer, tensors: Sequence[paddle.Tensor], engine: str) -> Conditions:
        """The conditions on this machine, for a supernet and its inputs."""
        shapes = ", ".join(f"{_dtype(tensor)} {list(tensor.shape)}" for tensor in tensors)
        today = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
        return cls(_device(), threads(), engine, version_of(engine), _structure(model), shapes, today)


@dataclass(frozen=True)
class Times:
    """The milliseconds of one kind of block.

    Attributes:
        grid: the sizes at which it was measured, ascending, by dimension.
        values: milliseconds: where `additive`, at each size of a dimension with the others in their middle, one row per
            dimension; else one row, at every combination of sizes, the last dimension running fastest.
        base: milliseconds with all dimensions in their middle; 0 where not `additive`.
        additive: whether the dimensions' times add up.
    """

    grid: tuple[tuple[int, ...], ...]
    values: tuple[tuple[float, ...], ...]
    base: float
    additive: bool

    def check(self) -> None:
        """Raises ValueError where there is not one time for each size, or the sizes do not ascend."""
        for sizes in self.grid:
            _check_ascending(sizes)
        counts = [len(sizes) for sizes in self.grid]
        wanted = counts if self.additive else [math.prod(counts)]
        if [len(row) for row in self.values] != wanted:
            raise ValueError(f"there are {[len(row) for row in self.values]} times for {counts} sizes")
        if any(isinstance(time, bool) or not isinstance(time, (int, float)) for row in self.values for time in row):
            raise ValueError("a time is not a number")

    def __call__(self, sizes: Sequence[int]) -> float:
        """Milliseconds at some sizes, those between measured ones on the straight line."""
        if self.additive:
            lines = zip(sizes, self.grid, self.values, strict=True)
            return self.base + sum(float(np.interp(size, grid, values)) - self.base for size, grid, values in lines)
        table = np.reshape(np.array(self.values[0]), [len(grid) for grid in self.grid])
        for size, grid in zip(sizes, self.grid, strict=True):
            place = int(np.clip(np.searchsorted(grid, size) - 1, 0, max(0, len(grid) - 2)))
            if len(grid) == 1:
                table = table[0]
                continue
            share = (size - grid[place]) / (grid[place + 1] - grid[place])
            table = table[place] * (1 - share) + table[place + 1] * share
        return float(table)


@dataclass(frozen=True)
class TimesAcross:
    """The milliseconds of one kind of block whose hidden size is elastic.

    Attributes:
        grid: the hidden sizes at which it was measured, ascending.
        each: the times at each of them.
    """

    grid: tuple[int, ...]
    each: tuple[Times, ...]

    def check(self) -> None:
        """Raises ValueError where there are not times for each size, or the sizes do not ascend."""
        _check_ascending(self.grid)
        if len(self.each) != len(self.grid):
            raise ValueError(f"there are {len(self.each)} times for {len(self.grid)} hidden sizes")
        for times in self.each:
            times.check()

    def __call__(self, sizes: Sequence[int]) -> float:
        """Milliseconds at some sizes, the hidden size first; those between measured ones on the straight line."""
        hidden, *others = sizes
        return float(np.interp(hidden, self.grid, [times(others) for times in self.each]))


class BlockTimes:
    """The milliseconds of all blocks of a sub-network.

    Args:
        blocks: the blocks of the model.
        times: by kind of block.
    """

    def __init__(self, blocks: Iterable[Block], times: Mapping[str, Times | TimesAcross]) -> None:
        self.blocks = tuple(blocks)
        self.times = dict(times)
        self._known: dict[tuple[str, tuple[int, ...]], float] = {}

    def __call__(self, config: Mapping[str, int]) -> float:
        """The sum over the blocks that a config keeps."""
        shares = ((block, block.share(config)) for block in self.blocks)
        return sum(share * self._block_ms(block, block.sizes(config)) for block, share in shares if share)

    def _block_ms(self, block: Block, sizes: tuple[int, ...]) -> float:
        key = (block.kind, sizes)
        if key not in self._known:
            self._known[key] = self.times[block.kind](sizes)
        return self._known[key]


def _check_ascending(sizes: Sequence[int]) -> None:
    if not sizes or any(type(size) is not int or size < 0 for size in sizes) or sorted(set(sizes)) != [*sizes]:
        raise ValueError(f"the sizes {sizes} do not ascend")


def _dtype(tensor: paddle.Tensor) -> str:
    return str(tensor.dtype).replace("paddle.", "")


def _structure(model: nn.Layer) -> str:
    layers = [f"{path} {type(layer).__name__}" for path, layer in model.named_sublayers(include_self=True)]
    shapes = [f"{key} {list(value.shape)}" for key, value in model.state_dict().items()]
    return blake2b("\n".join([*layers, *shapes]).encode(), digest_size=8).hexdigest()


def _device() -> str:
    """The name of what Paddle computes on; of a processor also how many of its cores this process may use."""
    device = paddle.device.get_device()
    if device != "cpu":
        return str(paddle.device.cuda.get_device_name(device)) if device.startswith("gpu") else device
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                name = line.partition(":")[2].strip()
                break
    return f"{name}, {len(os.sched_getaffinity(0))} cores"
