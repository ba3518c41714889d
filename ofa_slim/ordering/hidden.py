"""Scores of hidden channels, and reordering a supernet by them.

Source: the first-order change of the loss if a unit were removed, Molchanov et al. 2019, arXiv:1906.10771, applied to
the residual stream as it leaves each layer norm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import paddle
from paddle import nn

from ofa_slim.errors import ImportanceError
from ofa_slim.ordering.reorder import reorder_axis
from ofa_slim.ordering.scores import descending, summed_scores
from ofa_slim.supernet.axis import HIDDEN, Axis
from ofa_slim.supernet.handle import Supernet
from ofa_slim.supernet.paths import layer_at
from ofa_slim.supernet.spec import row_of


def compute_hidden_importance(
    ofa: Any,
    data_loader: Iterable[Any],
    loss_fct: Callable[..., paddle.Tensor] | None = None,
    axis: str = HIDDEN,
) -> paddle.Tensor:
    """Scores every channel of the hidden size on some batches.

    The score is the absolute gradient of the loss to a mask on that channel after a layer norm, ``|w * gw + b * gb|``
    of the norm's weight and bias, computed per batch and summed over all norms on the axis and all batches. The model
    runs in full and in eval mode, one backward pass per batch; its mode, gradients and active sub-network are restored
    at the end.

    Args:
        ofa: an `OFA` (or `Supernet`) with an elastic hidden size, ``Convert(supernet(hidden_size=[...]))``.
        data_loader: batches, as in `ofa_slim.ordering.scores.compute_neuron_head_importance`.
        loss_fct: ``loss_fct(model output, labels)`` -> scalar; cross entropy by default.
        axis: of the hidden size, where the model has several.

    Returns: float32 ``[hidden size]``, in units of the loss, at least 0.

    Raises: ImportanceError where there is no such axis, no norm with a weight on it, or no batch.
    """
    supernet = Supernet.of(ofa)
    network = supernet.model
    norms = _norms(network, _hidden_axis(supernet, axis))
    weights = [tensor for norm in norms for tensor in (norm.weight, _bias(norm)) if tensor is not None]
    if not weights:
        raise ImportanceError(f"no layer norm with a weight is on axis {axis!r}, so its channels cannot be scored")

    def scores(grads: Iterator[paddle.Tensor]) -> list[paddle.Tensor]:
        return [paddle.add_n([_score(norm, grads) for norm in norms])]

    (total,) = summed_scores(network, weights, data_loader, loss_fct, scores, "importance hidden")
    return total


def reorder_hidden(ofa: Any, importance: paddle.Tensor | Sequence[float], axis: str = HIDDEN) -> None:
    """Puts the most important channels of the hidden size first, in every layer at once and in place.

    At full size the model computes the same function as before. Do this before an optimizer has moments: they are not
    reordered. A teacher whose hidden layers are compared must be reordered in the same way, or mapped
    (``DistillConfig(mapping_op="linear")``), which a smaller hidden size needs in any case.

    Args:
        ofa: an `OFA` (or `Supernet`) with an elastic hidden size.
        importance: float ``[hidden size]``.
        axis: of the hidden size, where the model has several.

    Raises: ImportanceError where the scores do not fit the model; nothing is changed then.
    """
    supernet = Supernet.of(ofa)
    found = _hidden_axis(supernet, axis)
    scores = np.asarray(importance, dtype=np.float64)
    if scores.shape != (found.size,) or not np.isfinite(scores).all():
        raise ImportanceError(
            f"axis {axis!r}: scores of shape {list(scores.shape)}, expected [{found.size}] finite numbers"
        )
    with supernet.full():
        reorder_axis(supernet.model, found, descending(scores))


def _hidden_axis(supernet: Supernet, name: str) -> Axis:
    found = {axis.name: axis for axis in supernet.space.axes if axis.task == HIDDEN}
    if name not in found:
        raise ImportanceError(
            f"no axis {name!r} of a hidden size (there are {', '.join(found) or 'none'}); "
            "Convert(supernet(hidden_size=[...])) makes it elastic"
        )
    return found[name]


def _norms(model: nn.Layer, axis: Axis) -> list[nn.Layer]:
    layers = [layer_at(model, slot.layer) for slot in axis.slots if slot.role == "out"]
    return [layer for layer in layers if row_of(layer).follows and getattr(layer, "weight", None) is not None]


def _score(norm: nn.Layer, grads: Iterator[paddle.Tensor]) -> paddle.Tensor:
    """The score of each channel, float32; takes the next gradients, those of the norm's weight and bias."""
    score = (norm.weight * next(grads)).astype("float32")
    bias = _bias(norm)
    if bias is not None:
        score = score + (bias * next(grads)).astype("float32")
    return score.abs()


def _bias(norm: nn.Layer) -> paddle.Tensor | None:
    """The bias of a norm; None where it has none, as an RMSNorm."""
    return getattr(norm, "bias", None)
