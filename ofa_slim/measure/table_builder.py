"""Measuring a `LatencyTable`."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from scipy.optimize import nnls

from ofa_slim.base.clock import Latency, Rule, over_loads, ratio
from ofa_slim.base.copies import copied
from ofa_slim.base.examples import Example
from ofa_slim.base.progress import progress as progress_bar
from ofa_slim.base.threads import threads_kept
from ofa_slim.export.cut import cut, transformed_weights
from ofa_slim.measure.block_times import BlockTimes, Conditions, Times, TimesAcross
from ofa_slim.measure.blocks import COPIES, Block, BlockCall, Dimension, empty_program, find_blocks, program_of
from ofa_slim.measure.programs import OpenProgram, SaveProgram, engine_of, written_once
from ofa_slim.supernet.handle import Supernet, make_plain
from ofa_slim.supernet.space import SearchSpace
from ofa_slim.supernet.subnet_config import SubnetConfig

_BETWEEN = 6  # whole sub-networks that are measured, beside the largest and the smallest
# A program's place in memory changes its time by more than its runs differ, so these are few, and the loads several.
_RULE = Rule(seconds=3.0)
_AT_ONCE = 24  # programs that take turns; each is in memory
_EMPTY = "empty"  # a program that does next to nothing: what every run costs beside its work
_MOST_ADDITIVE = 12
_MOST_COMBINED = 3
_MOST_ACROSS = 4


Measured = tuple[Conditions, Sequence[Block], dict[str, Times | TimesAcross], float, float, dict[SubnetConfig, float]]
"""The arguments of `LatencyTable`."""


def measure_blocks(
    supernet: Supernet,
    input_shapes: Any,
    input_dtypes: Any,
    engine: str,
    choices: Mapping[str, Iterable[int]] | None,
    rule: Rule | None,
    progress: bool,
) -> Measured:
    """See `LatencyTable.build`."""
    save_program, rule = engine_of(engine), rule or _RULE
    example = supernet.example(input_shapes, input_dtypes)
    if choices is not None:
        supernet = Supernet(supernet.model, supernet.space.with_choices(choices), supernet.names)
    space = supernet.space
    about = Conditions.here(supernet.model, example.tensors, engine)
    kinds: dict[str, BlockCall] = {}
    blocks = find_blocks(supernet, example)
    for seen in blocks:
        kinds.setdefault(seen.block.kind, seen)
    wanted = {
        (kind, seen.block.sizes(config)): (seen, config)
        for kind, seen in kinds.items()
        for config in _configs(space, seen.block)
    }
    anchors = _anchors(space)
    with threads_kept(), progress_bar(len(wanted) + len(anchors), "timing blocks", "blocks", show=progress) as bar:
        load_model = _whole(save_program, supernet, anchors[0], example)
        as_served = _Reference(load_model, rule)
        whole = {config: _whole(save_program, supernet, config, example) for config in anchors[1:]}
        whole_shares = as_served.shares(whole)
        bar.update(len(anchors))
        # In a model a block finds the weights of other blocks in the caches, so here its turn is a single run.
        rounds = {"least": rule.least * rule.runs, "most": rule.most * rule.runs}
        among_others = _Reference(load_model, replace(rule, untimed=0, runs=1, **rounds))
        shares: dict[Any, float] = {}
        empty = {_EMPTY: save_program(*empty_program(blocks[0]))}
        for keys in _batches(list(wanted)):
            loads = {key: _block(save_program, supernet, *wanted[key]) for key in keys}
            shares |= among_others.shares({**loads, **empty})
            bar.update(len(keys))
    whole_ms = [as_served.ms * whole_shares.get(config, 1.0) for config in anchors]
    measured = {
        key: among_others.ms * (shares[key] - shares[_EMPTY]) * seen.calls / (COPIES if seen.block.additive else 1)
        for key, (seen, _) in wanted.items()
    }
    times = {kind: _times(space, seen.block, measured) for kind, seen in kinds.items()}
    block_times = BlockTimes([seen.block for seen in blocks], times)
    # The whole model is left out: sizes that libraries are tuned for make it faster than its blocks say (3 % for
    # MiniLM).
    fixed, scale = _fitted([block_times(config) for config in anchors[1:]], whole_ms[1:])
    return about, block_times.blocks, times, fixed, scale, dict(zip(anchors, whole_ms, strict=True))


class _Reference:
    """The whole model, which takes turns with all that is timed, so that a slow spell of the machine falls on both.

    Args:
        load: loads the whole model.
        rule: how long to measure.
    """

    def __init__(self, load: OpenProgram, rule: Rule) -> None:
        self._load = load
        self._rule = rule
        self._rounds: list[Sequence[float]] = []

    @property
    def ms(self) -> float:
        """Its median, in milliseconds."""
        return Latency.of(self._rounds).median

    def shares(self, loads: Mapping[Any, OpenProgram]) -> dict[Any, float]:
        """How long some programs take, in units of the whole model."""
        rounds = over_loads({None: self._load, **loads}, self._rule)
        self._rounds += rounds[None]
        return {key: ratio(rounds[key], rounds[None]) for key in loads}


def _anchors(space: SearchSpace) -> list[SubnetConfig]:
    """Whole sub-networks that are measured: the largest, the smallest, and some between."""
    rng = np.random.default_rng(0)
    between = [space.sample(rng) for _ in range(_BETWEEN)]
    return list(dict.fromkeys([space.largest(), space.smallest(), *between]))


def _fitted(blocks_ms: Sequence[float], whole_ms: Sequence[float]) -> tuple[float, float]:
    """What to add to the blocks' times, and to multiply them by, for the smallest relative errors."""
    x, y = np.array(blocks_ms), np.array(whole_ms)
    if len(x) < 2 or np.ptp(x) == 0:
        return float(y.mean() - x.mean()), 1.0
    # Noise in the times must not make the fixed part negative, which no part of a model is.
    fixed, scale = nnls(np.stack([1 / y, x / y], axis=1), np.ones_like(y))[0]
    return float(fixed), float(scale)


def _batches(keys: list[Any]) -> Iterator[list[Any]]:
    for start in range(0, len(keys), _AT_ONCE):
        yield keys[start : start + _AT_ONCE]


def _block(save_program: SaveProgram, supernet: Supernet, seen: BlockCall, config: SubnetConfig) -> OpenProgram:
    """Opens the program of a block, cut to a config."""
    return written_once(lambda: save_program(*program_of(supernet, seen, config)))


def _whole(save_program: SaveProgram, supernet: Supernet, config: SubnetConfig, example: Example) -> OpenProgram:
    """Opens the program of a whole sub-network."""

    def save() -> OpenProgram:
        with supernet.using(config):
            weights = transformed_weights(supernet.model)
        plain = make_plain(copied(supernet.model))
        cut(plain, supernet.space, config, weights)
        call = Example(example.args, {**example.kwargs, **supernet.forward_arguments(config)})
        return save_program(plain, call)

    return written_once(save)


def _levels(space: SearchSpace, block: Block) -> list[list[dict[str, int]]]:
    """For each dimension of a block, the sizes of its axes at which it is measured, the smallest first."""
    most = _MOST_ADDITIVE if block.additive else _MOST_COMBINED
    return [_levels_of(space, dimension, most) for dimension in block.dimensions]


def _levels_of(space: SearchSpace, dimension: Dimension, most: int) -> list[dict[str, int]]:
    axes = [space[name] for name in dimension.axes]
    count = min(most, max(len(axis.choices) for axis in axes))
    shares = np.linspace(0, 1, count) if count > 1 else [1.0]
    levels = [
        {axis.name: axis.choices[round(float(share) * (len(axis.choices) - 1))] for axis in axes} for share in shares
    ]
    return list({dimension.size(level): level for level in levels}.values())


def _configs(space: SearchSpace, block: Block) -> Iterator[SubnetConfig]:
    """The configs at which a block is measured: at each hidden size, what `_within` says."""
    across = [{}] if block.across is None else _levels_of(space, block.across, _MOST_ACROSS)
    for level in across:
        for sizes in _within(space, block):
            yield SubnetConfig({**sizes, **level})


def _within(space: SearchSpace, block: Block) -> Iterator[dict[str, int]]:
    """The sizes at which a block is measured: one dimension after the other, or all their combinations."""
    levels = _levels(space, block)
    if block.additive:
        middle = _middle(space, block)
        yield middle
        for dimension in levels:
            for level in dimension:
                yield {**middle, **level}
    else:
        for combination in itertools.product(*levels):
            sizes = dict(space.largest())
            for level in combination:
                sizes.update(level)
            yield sizes


def _middle(space: SearchSpace, block: Block) -> dict[str, int]:
    """The sizes with each dimension of a block in the middle.

    The effects of two dimensions are added, and add up best around the middle: at full size a cache may be too small
    for a block, which any cut mends, so that two cuts would count it twice.
    """
    sizes = dict(space.largest())
    for levels in _levels(space, block):
        sizes.update(levels[len(levels) // 2])
    return sizes


def _times(
    space: SearchSpace, block: Block, measured: Mapping[tuple[str, tuple[int, ...]], float]
) -> Times | TimesAcross:
    found = {block.sizes(config): measured[block.kind, block.sizes(config)] for config in _configs(space, block)}
    if block.across is None:
        return _times_at(space, block, found)
    grid = sorted({sizes[0] for sizes in found})
    at = {hidden: {sizes[1:]: ms for sizes, ms in found.items() if sizes[0] == hidden} for hidden in grid}
    return TimesAcross(tuple(grid), tuple(_times_at(space, block, at[hidden]) for hidden in grid))


def _times_at(space: SearchSpace, block: Block, found: Mapping[tuple[int, ...], float]) -> Times:
    """The times of a block by the sizes of its dimensions."""
    levels = _levels(space, block)
    grid = tuple(
        tuple(sorted(dimension.size(level) for level in own))
        for dimension, own in zip(block.dimensions, levels, strict=True)
    )
    if not block.additive:
        return Times(grid, (tuple(found[sizes] for sizes in itertools.product(*grid)),), 0.0, additive=False)
    middle = tuple(dimension.size(_middle(space, block)) for dimension in block.dimensions)
    rows = [
        tuple(found[(*middle[:number], size, *middle[number + 1 :])] for size in sizes)
        for number, sizes in enumerate(grid)
    ]
    return Times(grid, tuple(rows), found[middle], additive=True)
