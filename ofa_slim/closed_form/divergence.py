"""How far a smaller model's outputs are from the original's."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import paddle
import paddle.nn.functional as F
from paddle import nn

from ofa_slim.base.nested import split
from ofa_slim.closed_form.calibration import Calibration
from ofa_slim.errors import CalibrationError
from ofa_slim.train.parallel import mean_over_ranks

Divergence = Callable[[paddle.Tensor, paddle.Tensor], paddle.Tensor]
"""``(output of the original, of the smaller model)``, both float [rows, channels], to float [rows]."""


def divergence(original: paddle.Tensor, smaller: paddle.Tensor) -> paddle.Tensor:
    """Kullback-Leibler divergence of rows of logits in nats, float [rows]; of one channel the squared difference."""
    if original.shape[-1] == 1:
        return ((original - smaller) ** 2).sum(axis=-1)
    log_original, log_smaller = (F.log_softmax(logits, axis=-1) for logits in (original, smaller))
    return (log_original.exp() * (log_original - log_smaller)).sum(axis=-1)


def mean_divergence(
    outputs: Iterable[list[paddle.Tensor]],
    others: Iterable[list[paddle.Tensor]],
    calibration: Calibration,
    by: Divergence = divergence,
) -> float:
    """The mean over the rows of all batches and processes, summed over a model's outputs; see `outputs_of`.

    Further outputs that are narrower in the smaller model, as cached keys and values of fewer heads, do not count.

    Raises: CalibrationError where the first outputs differ in shape.
    """
    total, rows = 0.0, 0
    for batch, ones, twos in zip(calibration, outputs, others, strict=True):
        if ones[0].shape != twos[0].shape:
            raise CalibrationError(
                f"the models' outputs cannot be compared: shapes {list(ones[0].shape)} and {list(twos[0].shape)}"
            )
        for one, two in zip(ones, twos, strict=True):
            if one.shape != two.shape:
                continue
            total += float(by(batch.flat(one), batch.flat(two)).astype("float64").sum())
        rows += batch.flat(ones[0]).shape[0]
    sums = mean_over_ranks(paddle.to_tensor([total, rows], dtype="float64")).numpy()
    return float(sums[0] / sums[1])


def outputs_of(model: nn.Layer, calibration: Calibration) -> list[list[paddle.Tensor]]:
    """The floating-point outputs of every batch, in eval mode."""
    return [batch.example.outputs(model) for batch in calibration]


def floats(output: Any) -> list[paddle.Tensor]:
    """The floating-point tensors in a model's output, in order."""
    return [tensor for tensor in split(output)[0] if tensor.is_floating_point()]
