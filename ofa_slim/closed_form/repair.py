"""Least-squares repair of a smaller model, so that its residual stream is as close as possible to the original's."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import paddle
from paddle import nn

from ofa_slim.base.modes import plain_forwards
from ofa_slim.closed_form.calibration import Calibration
from ofa_slim.closed_form.divergence import Divergence, divergence, mean_divergence, outputs_of
from ofa_slim.closed_form.moments import RIDGE, Moments
from ofa_slim.closed_form.sub_layers import BlockRunner, Stream, Writer, residual_sums, writers
from ofa_slim.errors import CalibrationError, ConfigError
from ofa_slim.supernet.handle import full_size
from ofa_slim.supernet.layers import BiasOnly
from ofa_slim.supernet.paths import layer_at
from ofa_slim.supernet.twin_blocks import twin_blocks

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SubLayerError:
    """The error of the residual stream right after a sub-layer, per row of the stream.

    Attributes:
        matrix: path of the output matrix that was fitted, in the smaller model; of a sub-layer that is left out, of the
            bias that remains.
        before, after: mean squared error, summed over channels, on the calibration rows.
    """

    matrix: str
    before: float
    after: float


def repair(
    model: nn.Layer,
    original: nn.Layer,
    loader: Iterable[Any] | Calibration,
    rows: int | None = 2048,
    ridge: float = RIDGE,
) -> list[SubLayerError]:
    """Refits the output matrix and bias of every sub-layer of a smaller model, in place, from unlabelled rows.

    From the bottom up: the smaller model runs with what has been repaired so far, and the matrix is changed so that
    the sum of residual and sub-layer comes closest to the original's at that place. So each sub-layer also corrects
    what those before it have left. Only output matrices and their biases change.

    Args:
        model: a plain model cut out of `original` or of a supernet of it, its blocks in the same order.
        original: what to come close to: a plain model, or a supernet, of which the whole runs.
        loader: batches of inputs; see `Calibration`.
        rows: how many rows to use at most.
        ridge: on the change of a matrix, as a share of the mean diagonal of its inputs' second moment.

    Returns: the errors of every sub-layer, bottom up.

    Raises: CalibrationError for a loader without a batch or with other inputs, for models without known blocks, and
        where the two models do not belong together; `model` is as before then.
    """
    calibration = loader if isinstance(loader, Calibration) else Calibration(original, loader, rows)
    with full_size(original), plain_forwards(model):
        fit = _Fit(model, original, calibration, ridge)
        before = [(parameter, parameter.clone()) for part in fit.parts for parameter in _parameters(model, part)]
        try:
            with paddle.no_grad():
                return fit.run()
        except BaseException:
            for parameter, value in before:
                parameter.set_value(value)
            raise


@dataclass(frozen=True)
class Repair:
    """What a repair gained on rows that it was not fitted to.

    Attributes:
        before, after: mean divergence of the outputs from the original's, per row.
        kept: whether it was kept: only where it brought the outputs closer.
        errors: of the sub-layers, on the rows that it was fitted to.
    """

    before: float
    after: float
    kept: bool
    errors: tuple[SubLayerError, ...]


def repair_if_better(
    model: nn.Layer,
    original: nn.Layer,
    loader: Iterable[Any] | Calibration,
    rows: int | None = 2048,
    ridge: float = RIDGE,
    by: Divergence = divergence,
) -> Repair:
    """Repairs a smaller model in place, and puts it back where held-back rows say that it was better before.

    A quarter of the rows is held back. A model whose weights have been trained at this size may gain nothing.

    Args:
        model: as in `repair`.
        original: as in `repair`.
        loader: as in `repair`; at least two batches.
        rows: as in `repair`.
        ridge: as in `repair`.
        by: how two outputs are compared.

    Raises: CalibrationError as `repair`, and where there is only one batch.
    """
    calibration = loader if isinstance(loader, Calibration) else Calibration(original, loader, rows)
    if len(calibration.batches) < 2:
        raise CalibrationError("one batch is too few: some rows are held back, to see what the repair gains")
    judge = calibration.part(calibration.rows // 4)
    fitted = calibration.without(judge)
    with full_size(original):
        wanted = outputs_of(original, judge)
    weights = [(parameter, parameter.clone()) for part in writers(model) for parameter in _parameters(model, part)]
    before = mean_divergence(wanted, outputs_of(model, judge), judge, by)
    errors = repair(model, original, fitted, ridge=ridge)
    after = mean_divergence(wanted, outputs_of(model, judge), judge, by)
    kept = after < before
    words = "kept" if kept else "taken back"
    logger.info("repair: the outputs' divergence on held-back rows goes from %.4g to %.4g; %s", before, after, words)
    if not kept:
        for parameter, value in weights:
            parameter.set_value(value)
    return Repair(before, after, kept, tuple(errors))


def _parameters(model: nn.Layer, part: Writer) -> list[paddle.Tensor]:
    layer = layer_at(model, part.layer)
    return [parameter for parameter in (getattr(layer, "weight", None), layer.bias) if parameter is not None]


class _Fit:
    """The smaller model and the original, run side by side block by block."""

    def __init__(self, model: nn.Layer, original: nn.Layer, calibration: Calibration, ridge: float) -> None:
        self.calibration, self.ridge = calibration, ridge
        batch = calibration.batches[0]
        self.small, self.large = BlockRunner(model, batch), BlockRunner(original, batch)
        self.parts = writers(model)
        twins = _twins(model, original)
        large = {(part.block, part.matrix): part for part in writers(original)}
        self.twin = {part.layer: large[twins[part.block], part.matrix] for part in self.parts}
        sums = residual_sums(self.large, batch, list(self.twin.values()))
        self.sums = {path: sums[twin.layer] for path, twin in self.twin.items()}
        self.twin_block = twins

    def run(self) -> list[SubLayerError]:
        errors: list[SubLayerError] = []
        small, large = ([Stream() for _ in self.calibration] for _ in range(2))
        at_small = at_large = 0
        for start, stop in _spans(self.small.calls):
            block = self.small.calls[start]
            parts = [part for part in self.parts if part.block == block]
            twin = self.twin_block[block]
            end = len(self.large.calls) - self.large.calls[::-1].index(twin)
            wanted = list(dict.fromkeys(self.sums[part.layer] for part in parts))
            targets = []
            for number, batch in enumerate(self.calibration):
                _, large[number], seen = self.large.run(batch, large[number], at_large, end, wanted)
                targets.append(seen)
            at_large = end
            for part in parts:
                # The first of a block also runs the rest of the block before it, which is repaired by now.
                error, small = self._fit(part, targets, small, at_small, start, stop)
                errors.append(error)
                at_small = start
        return errors

    def _fit(
        self, part: Writer, targets: list[Any], streams: list[Stream], at: int, start: int, stop: int
    ) -> tuple[SubLayerError, list[Stream]]:
        """Fits one matrix in the calls from `start` to before `stop`; the streams are those before the call `at`.

        Returns: its error, and the streams before `start`.
        """
        layer = layer_at(self.small.model, part.layer)
        gone = isinstance(layer, BiasOnly)
        moments = Moments(1, layer.bias.shape[0]) if gone else Moments(*layer.weight.shape)
        place, side = self.sums[part.layer]
        own = f"{part.block}{place[len(self.twin_block[part.block]) :]}", side
        entering = (part.layer, "input")
        before = []
        for batch, target, stream in zip(self.calibration, targets, streams, strict=True):
            watched, until = [entering, own], (own, stop - start)
            _, entered, seen = self.small.run(batch, stream, at, stop, watched, until, keep=start)
            before.append(entered)
            for inputs, got, wanted in zip(seen[entering], seen[own], target[place, side], strict=True):
                if wanted.shape != got.shape:
                    raise CalibrationError(
                        f"{part.block}: the residual stream has {got.shape[-1]} channels, the original's "
                        f"{wanted.shape[-1]}"
                    )
                errors = batch.flat(wanted - got)
                # Where only a bias remains, it takes the mean of the error over.
                moments.add(paddle.zeros([len(errors), 1], errors.dtype) if gone else batch.flat(inputs), errors)
        moments.reduce()
        change, shift = moments.correction(layer.bias is not None, self.ridge)
        if not gone:
            _add(layer.weight, change)
        if shift is not None:
            _add(layer.bias, shift)
        squared = moments.squared / moments.rows, moments.squared_after(change, shift) / moments.rows
        return SubLayerError(part.layer, *squared), before


def _add(parameter: paddle.Tensor, change: np.ndarray) -> None:
    parameter.set_value((parameter.astype("float64") + paddle.to_tensor(change)).astype(parameter.dtype))


def _twins(model: nn.Layer, original: nn.Layer) -> dict[str, str]:
    try:
        return twin_blocks(model, original)
    except ConfigError as error:
        raise CalibrationError(str(error)) from None


def _spans(calls: list[str]) -> list[tuple[int, int]]:
    """Consecutive calls of one block, as (first, after last)."""
    spans = [[0, 0]]
    for number, path in enumerate(calls):
        if path != calls[spans[-1][0]]:
            spans.append([number, number])
        spans[-1][1] = number + 1
    if len({calls[start] for start, _ in spans}) < len(spans):
        raise CalibrationError("blocks that take turns cannot be repaired one after the other")
    return [(start, stop) for start, stop in spans]
