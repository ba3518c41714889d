"""Which size each sub-layer should have: measured curves, and the best sizes for a budget by dynamic programming.

Source: Frantar and Alistarh 2022, SPDY, arXiv:2203.04466, as ZipLM (Kurtic et al. 2023, arXiv:2302.04089) uses it; here
the loss of a sub-layer at a size is measured in the model's outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import paddle
from paddle import nn

from ofa_slim.closed_form.calibration import Calibration
from ofa_slim.closed_form.divergence import Divergence, divergence, floats, mean_divergence
from ofa_slim.closed_form.moments import RIDGE
from ofa_slim.closed_form.obs import Removal, kept_rows, matrix_without
from ofa_slim.closed_form.order import Statistics
from ofa_slim.closed_form.sub_layers import BlockRunner, Stream
from ofa_slim.errors import CalibrationError
from ofa_slim.supernet.families import layer_at
from ofa_slim.supernet.handle import full_size

SHARES = tuple(part / 24 for part in (1, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 24))
"""Sizes at which a curve is measured, as shares of the full size."""


@dataclass(frozen=True)
class Curve:
    """What the model loses when one axis is cut.

    Attributes:
        axis: its name.
        sizes: ascending; the last is the full size.
        losses: mean divergence of the model's outputs per row at each size, not increasing; 0 at full size.
    """

    axis: str
    sizes: tuple[int, ...]
    losses: tuple[float, ...]


def measure_curves(
    model: nn.Layer,
    calibration: Calibration,
    found: Statistics,
    removals: Mapping[str, Removal],
    ridge: float = RIDGE,
    by: Divergence = divergence,
) -> list[Curve]:
    """Cuts one axis at a time to each of some sizes, the other units making up for it, and runs the rest of the model.

    Args:
        model: the model that `found` and `removals` are of, a plain one or a supernet, of which the whole runs.
        calibration: the rows; some 500 are enough.
        found: second moments.
        removals: by axis.
        ridge: as in `Statistics.removals`.
        by: how two outputs are compared.

    Returns: a curve for every axis, bottom up.
    """
    with full_size(model), paddle.no_grad():
        runner = BlockRunner(model, calibration.batches[0])
        stitcher = Stitcher(model, found, removals, ridge)
        wanted = [floats(runner.run(batch, Stream(), 0, None)[0]) for batch in calibration]
        streams, at = [Stream() for _ in calibration], 0
        curves = []
        for axis in {part.axis.name: part.axis for part in found.parts}.values():
            start = min(runner.calls.index(part.block) for part in found.parts if part.axis.name == axis.name)
            if start > at:
                streams = [
                    runner.run(batch, stream, at, start)[1] for batch, stream in zip(calibration, streams, strict=True)
                ]
                at = start
            sizes = sorted({max(1, round(share * axis.size)) for share in SHARES})
            losses = []
            for size in sizes[:-1]:
                with stitcher.cut({axis.name: size}):
                    got = [
                        floats(runner.run(batch, stream, at, None)[0])
                        for batch, stream in zip(calibration, streams, strict=True)
                    ]
                losses.append(mean_divergence(wanted, got, calibration, by))
            # A larger size is never worse: what measured worse is luck of the rows.
            monotone = np.maximum.accumulate([0.0, *losses[::-1]])[::-1]
            curves.append(Curve(axis.name, tuple(sizes), tuple(map(float, monotone))))
    return curves


class Stitcher:
    """Sets the output matrices of a model to those that a cut leaves, in full shape with rows of zeros.

    Args:
        model: in full.
        found, removals, ridge: as in `measure_curves`.
    """

    def __init__(
        self, model: nn.Layer, found: Statistics, removals: Mapping[str, Removal], ridge: float = RIDGE
    ) -> None:
        self._model, self._found, self._removals, self._ridge = model, found, removals, ridge

    @contextmanager
    def cut(self, sizes: Mapping[str, int]) -> Iterator[None]:
        """The units of each axis beyond its size are gone inside the block of code."""
        before: list[tuple[paddle.Tensor, paddle.Tensor]] = []
        try:
            for part in self._found.parts:
                if sizes.get(part.axis.name, part.axis.size) < part.axis.size:
                    before += self._cut(part.matrix, part.axis.name, sizes[part.axis.name], part.unit)
            yield
        finally:
            for parameter, value in before:
                parameter.set_value(value)

    def _cut(self, path: str, axis: str, size: int, unit: int) -> list[tuple[paddle.Tensor, paddle.Tensor]]:
        matrix, moments = layer_at(self._model, path), self._found.moments[path]
        old = matrix.weight.astype("float64").numpy()
        kept = kept_rows(self._removals[axis].order, size, unit)
        new = matrix_without(moments.second(matrix.bias is not None), old, kept, self._ridge)
        changed = [(matrix.weight, matrix.weight.clone())]
        matrix.weight.set_value(paddle.to_tensor(new).astype(matrix.weight.dtype))
        if matrix.bias is not None:
            changed.append((matrix.bias, matrix.bias.clone()))
            shift = paddle.to_tensor(moments.mean @ (old - new))
            matrix.bias.set_value((matrix.bias.astype("float64") + shift).astype(matrix.bias.dtype))
        return changed


def allocate(
    curves: Sequence[Curve],
    cost_of: Callable[[Mapping[str, int]], float],
    budget: float,
    smallest: Mapping[str, int] | None = None,
    buckets: int = 4000,
) -> dict[str, int]:
    """The sizes of least summed loss whose cost is within a budget, by dynamic programming over buckets of cost.

    Costs are taken as sums over axes, from one axis cut at a time. Where they are not (a block's latency), the answer
    is checked with `cost_of` itself and the budget of the sum made smaller until it holds.

    Args:
        curves: of every axis that may be cut.
        cost_of: of a config ``{axis name: size}``, in any unit; axes that are left out are in full.
        budget: in the same unit.
        smallest: the least size of axes, by name; 1 where left out.
        buckets: how finely costs are told apart.

    Returns: ``{axis name: size}`` of the axes with a curve.

    Raises: CalibrationError where the smallest sizes cost more than the budget.
    """
    floor = smallest or {}
    options = []
    for curve in curves:
        pairs = [pair for pair in zip(curve.sizes, curve.losses, strict=True) if pair[0] >= floor.get(curve.axis, 1)]
        options.append((curve.axis, [size for size, _ in pairs], np.array([loss for _, loss in pairs])))
    full = {axis: sizes[-1] for axis, sizes, _ in options}
    whole = cost_of(full)
    costs = [np.array([cost_of({**full, axis: size}) for size in sizes]) for axis, sizes, _ in options]
    least = {axis: sizes[0] for axis, sizes, _ in options}
    if cost_of(least) > budget:
        raise CalibrationError(f"the smallest sizes cost {cost_of(least):g}, more than the budget of {budget:g}")
    fixed = whole - sum(whole - float(cost.min()) for cost in costs)
    aim = budget
    for _ in range(20):
        picks = _cheapest_loss(
            [cost - cost.min() for cost in costs], [loss for *_, loss in options], aim - fixed, buckets
        )
        found = {axis: sizes[pick] for (axis, sizes, _), pick in zip(options, picks, strict=True)}
        excess = cost_of(found) - budget
        if excess <= 1e-9 * abs(budget):
            return found
        aim -= excess
    return least


def _cheapest_loss(costs: Sequence[np.ndarray], losses: Sequence[np.ndarray], budget: float, buckets: int) -> list[int]:
    """The choice of each axis with the least sum of losses whose costs sum to at most `budget`."""
    width = max(budget, 0.0) / buckets
    steps = [
        np.where(cost <= 0, 0, np.ceil(cost / width - 1e-9) if width > 0 else buckets + 1)
        .clip(0, buckets + 1)
        .astype(int)
        for cost in costs
    ]
    best = np.zeros(buckets + 1)  # least loss of the axes so far, by buckets spent at most
    picks = []
    for step, loss in zip(steps, losses, strict=True):
        table = np.full((len(step), buckets + 1), np.inf)
        for row, (spent, value) in enumerate(zip(step, loss, strict=True)):
            if spent <= buckets:
                table[row, spent:] = best[: buckets + 1 - spent] + value
        picks.append(table.argmin(axis=0))
        best = table.min(axis=0)
    left, found = buckets, []
    for step, pick in zip(reversed(steps), reversed(picks), strict=True):
        found.append(int(pick[left]))
        left -= int(step[found[-1]])
    return found[::-1]
