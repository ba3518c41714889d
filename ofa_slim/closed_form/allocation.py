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
from ofa_slim.closed_form.sub_layers import BlockRunner, Stream, SubLayer
from ofa_slim.errors import CalibrationError
from ofa_slim.supernet.axis import Axis
from ofa_slim.supernet.handle import full_size
from ofa_slim.supernet.paths import layer_at

SHARES = tuple(part / 24 for part in (1, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 24))
"""Sizes that allocation chooses from, as shares of the full size."""

MEASURED = tuple(part / 24 for part in (1, 4, 10, 16))
"""Those of them at which a curve is measured; between them it follows the error of the output matrix."""

_BUCKETS = 4000
_TRIES = 25


def curve_sizes(axis: Axis, omit: bool = False) -> tuple[int, ...]:
    """The sizes of the curve of an axis, ascending.

    Args:
        axis: at full size.
        omit: whether 0 is among them, where the axis can have it.
    """
    sizes = {max(1, round(share * axis.size)) for share in SHARES}
    return tuple(sorted(sizes | ({0} if omit and axis.least == 0 else set())))


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

    def among(self, choices: Sequence[int]) -> Curve:
        """The same at those choices that are nearest to its sizes; between two sizes losses are on the straight line.

        Args:
            choices: ascending; those below its smallest size are left out, as nothing is known of them.
        """
        known = [choice for choice in choices if choice >= self.sizes[0]] or [choices[-1]]
        nearest = sorted({min(known, key=lambda choice: abs(choice - size)) for size in self.sizes} | {known[-1]})
        return Curve(self.axis, tuple(nearest), tuple(map(float, np.interp(nearest, self.sizes, self.losses))))


def measure_curves(
    model: nn.Layer,
    calibration: Calibration,
    found: Statistics,
    removals: Mapping[str, Removal],
    ridge: float = RIDGE,
    by: Divergence = divergence,
    omit: bool = False,
    measured_shares: Sequence[float] = MEASURED,
) -> list[Curve]:
    """Cuts one axis at a time to some sizes, the other units making up for it, and runs the rest of the model.

    Between the sizes that are run, a loss follows the error of the axis's output matrix, which `removals` has for every
    size: their logarithms are interpolated.

    Args:
        model: the model that `found` and `removals` are of, a plain one or a supernet, of which the whole runs.
        calibration: the rows; some 500 are enough.
        found: second moments.
        removals: by axis.
        ridge: as in `Statistics.removals`.
        by: how two outputs are compared.
        omit: whether whole sub-layers may be left out.
        measured_shares: the sizes that are run beside the smallest, as shares of the full one.

    Returns: a curve for every axis, bottom up.
    """
    with full_size(model), paddle.no_grad():
        runner = BlockRunner(model, calibration.batches[0])
        wanted = [floats(runner.run(batch, Stream(), 0, None)[0]) for batch in calibration]
        streams, at = [Stream() for _ in calibration], 0
        curves = []
        for axis in {part.axis.name: part.axis for part in found.parts}.values():
            parts = [part for part in found.parts if part.axis.name == axis.name]
            start = min(runner.calls.index(part.block) for part in parts)
            if start > at:
                streams = [
                    runner.run(batch, stream, at, start)[1] for batch, stream in zip(calibration, streams, strict=True)
                ]
                at = start
            sizes = curve_sizes(axis, omit)
            measured = {}
            for size in sorted({sizes[0], *(max(1, round(share * axis.size)) for share in measured_shares)}):
                with _cut(model, parts, found, removals[axis.name], size, ridge):
                    got = (  # one batch at a time: the outputs of a language model are large
                        floats(runner.run(batch, stream, at, None)[0])
                        for batch, stream in zip(calibration, streams, strict=True)
                    )
                    measured[size] = mean_divergence(wanted, got, calibration, by)
            losses = _between(sizes[:-1], measured, removals[axis.name].errors)
            # A larger size is never worse: what measured worse is luck of the rows.
            monotone = np.maximum.accumulate([0.0, *losses[::-1]])[::-1]
            curves.append(Curve(axis.name, sizes, tuple(map(float, monotone))))
    return curves


def _between(sizes: Sequence[int], measured: Mapping[int, float], errors: np.ndarray) -> np.ndarray:
    """The losses at some sizes, float64 ``[sizes]``, from those that were measured.

    Args:
        sizes: below the full one.
        measured: losses by size.
        errors: of the output matrix at every size; not increasing, 0 at full size.
    """
    least = np.finfo(float).tiny
    known = np.array(sorted(measured, reverse=True))
    at, losses = (np.log(np.maximum(values, least)) for values in (errors[known], [measured[size] for size in known]))
    wanted = np.log(np.maximum(errors[list(sizes)], least))
    # Beyond the largest measured size the loss goes to 0 as the error does.
    found = np.where(wanted < at[0], losses[0] + wanted - at[0], np.interp(wanted, at, losses))
    return np.where(np.isin(sizes, known), [measured.get(size, 0.0) for size in sizes], np.exp(found))


@contextmanager
def _cut(
    model: nn.Layer, parts: Sequence[SubLayer], found: Statistics, removal: Removal, size: int, ridge: float
) -> Iterator[None]:
    """The units of one axis beyond its size are gone inside the block of code: their rows of the matrices are 0."""
    before: list[tuple[paddle.Tensor, paddle.Tensor]] = []
    try:
        for part in parts:
            matrix, moments = layer_at(model, part.matrix), found.moments[part.matrix]
            old = matrix.weight.astype("float64").numpy()
            kept = kept_rows(removal.order, size, part.unit)
            new = matrix_without(moments.second(matrix.bias is not None), old, kept, ridge)
            before.append((matrix.weight, matrix.weight.clone()))
            matrix.weight.set_value(paddle.to_tensor(new).astype(matrix.weight.dtype))
            if matrix.bias is not None:
                before.append((matrix.bias, matrix.bias.clone()))
                shift = paddle.to_tensor(moments.mean @ (old - new))
                matrix.bias.set_value((matrix.bias.astype("float64") + shift).astype(matrix.bias.dtype))
        yield
    finally:
        for parameter, value in before:
            parameter.set_value(value)


def allocate(curves: Sequence[Curve], cost_of: Callable[[Mapping[str, int]], float], budget: float) -> dict[str, int]:
    """The sizes of least summed loss whose cost is within a budget, by dynamic programming over buckets of cost.

    Costs are taken as sums over axes: what an axis adds is the mean of what it adds to the smallest sizes of the others
    and to their full ones. Where a cost is no such sum (a block's latency), the budget of the sum is varied until
    `cost_of` itself just keeps to the budget; what is left then goes to the axes that gain most for it.

    Args:
        curves: of every axis that may be cut.
        cost_of: of a config ``{axis name: size}``, in any unit; axes that are left out are in full.
        budget: in the same unit.

    Returns: ``{axis name: size}`` of the axes with a curve.

    Raises: CalibrationError where the smallest sizes cost more than the budget.
    """
    full = {curve.axis: curve.sizes[-1] for curve in curves}
    least = {curve.axis: curve.sizes[0] for curve in curves}
    if cost_of(least) > budget:
        raise CalibrationError(f"the smallest sizes cost {cost_of(least):g}, more than the budget of {budget:g}")
    limit = budget + 1e-9 * abs(budget)
    if cost_of(full) <= limit:
        return full
    added = []
    for curve in curves:
        ends = [[cost_of({**others, curve.axis: size}) for size in curve.sizes] for others in (least, full)]
        mean = np.mean(ends, axis=0)
        added.append(np.maximum.accumulate(mean - mean[0]))
    losses = [np.array(curve.losses) for curve in curves]
    best, low, high = dict(least), 0.0, float(sum(one[-1] for one in added))
    for _ in range(_TRIES):
        spent = (low + high) / 2
        picks = _least_loss(added, losses, spent)
        found = {curve.axis: curve.sizes[pick] for curve, pick in zip(curves, picks, strict=True)}
        if cost_of(found) <= limit:
            low = spent
            best = min(best, found, key=lambda sizes: _loss(curves, sizes))
        else:
            high = spent
    return _filled(curves, best, cost_of, limit)


def _loss(curves: Sequence[Curve], sizes: Mapping[str, int]) -> float:
    return sum(curve.losses[curve.sizes.index(sizes[curve.axis])] for curve in curves)


def _filled(
    curves: Sequence[Curve], sizes: dict[str, int], cost_of: Callable[[Mapping[str, int]], float], limit: float
) -> dict[str, int]:
    """Sizes enlarged one at a time, each time the one that gains most for what it costs, while the cost is kept to."""
    while True:
        before, options = cost_of(sizes), []
        for curve in curves:
            at = curve.sizes.index(sizes[curve.axis])
            for place in range(at + 1, len(curve.sizes)):
                larger = {**sizes, curve.axis: curve.sizes[place]}
                cost, gain = cost_of(larger), curve.losses[at] - curve.losses[place]
                if cost <= limit and gain > 0:
                    options.append((gain / max(cost - before, 1e-12 * abs(limit)), curve.axis, curve.sizes[place]))
        if not options:
            return sizes
        _, axis, size = max(options)
        sizes = {**sizes, axis: size}


def _least_loss(costs: Sequence[np.ndarray], losses: Sequence[np.ndarray], budget: float) -> list[int]:
    """For each axis the number of its size, so that losses sum to the least and costs to at most the budget."""
    bucket = max(budget, np.finfo(float).tiny) / _BUCKETS
    steps = [np.minimum(np.ceil(cost / bucket - 1e-9), _BUCKETS + 1).astype(int) for cost in costs]
    best = np.zeros(_BUCKETS + 1)  # the least loss of the axes so far for each number of buckets to spend
    picks = []
    for step, loss in zip(steps, losses, strict=True):
        sums = np.full((len(step), _BUCKETS + 1), np.inf)
        for row, spent in enumerate(step):
            if spent <= _BUCKETS:
                sums[row, spent:] = best[: _BUCKETS + 1 - spent] + loss[row]
        picks.append(sums.argmin(axis=0))
        best = sums.min(axis=0)
    left, found = _BUCKETS, []
    for step, pick in zip(reversed(steps), reversed(picks), strict=True):
        found.append(int(pick[left]))
        left -= int(step[found[-1]])
    return found[::-1]
