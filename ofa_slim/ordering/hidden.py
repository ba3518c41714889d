"""Scores of hidden channels, and reordering a supernet by them.

Source: the first-order change of the loss if a unit were removed, Molchanov et al. 2019, arXiv:1906.10771, applied to
the residual stream as it leaves each layer norm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import paddle
from paddle import nn
from tqdm import tqdm

from ofa_slim.errors import ImportanceError
from ofa_slim.ordering.reorder import reorder_axis
from ofa_slim.ordering.scores import scoring, split_batch
from ofa_slim.supernet.axis import HIDDEN, Axis
from ofa_slim.supernet.families import layer_at
from ofa_slim.supernet.handle import Supernet
from ofa_slim.supernet.spec import spec_of


def compute_hidden_importance(
    ofa: Any,
    data_loader: Iterable[Any],
    loss_fct: Callable[..., paddle.Tensor] | None = None,
    axis: str = HIDDEN,
) -> paddle.Tensor:
    """Scores every channel of the hidden size on some batches.

    The score is the absolute gradient of the loss to a mask on that channel behind a layer norm, ``|w * gw + b * gb|``
    of the norm's weight and bias, summed over all norms on the axis and over the batches, each batch for itself. The
    model runs in full and in eval mode, one backward pass per batch; its mode, gradients and active sub-network are
    those of before when this returns.

    Args:
        ofa: an `OFA` (or `Supernet`) with an elastic hidden size, ``Convert(supernet(hidden_size=[...]))``.
        data_loader: batches, as in `ofa_slim.ordering.scores.compute_neuron_head_importance`.
        loss_fct: ``loss_fct(model output, labels)`` -> scalar; cross entropy by default.
        axis: of the hidden size, where the model has several.

    Returns: float32 ``[hidden size]``, in units of the loss, at least 0.

    Raises: ImportanceError where there is no such axis, no norm with a weight on it, or no batch.
    """
    supernet = Supernet.of(ofa)
    found, network = _axis(supernet, axis), supernet.model
    norms = _norms(network, found)
    weights = [tensor for norm in norms for tensor in (norm.weight, norm.bias) if tensor is not None]
    if not weights:
        raise ImportanceError(f"no layer norm with a weight is on axis {axis!r}, so its channels cannot be scored")
    loss_fct = nn.CrossEntropyLoss() if loss_fct is None else loss_fct
    total: paddle.Tensor | None = None
    with supernet.full(), scoring(network, weights):
        for batch in tqdm(data_loader, desc="importance hidden", leave=False):
            args, kwargs, labels = split_batch(batch)
            grads = iter(paddle.grad(loss_fct(network(*args, **kwargs), labels), weights))
            # The sum must not remember the gradients that it was made from.
            with paddle.no_grad():
                scores = paddle.add_n([_score(norm, grads) for norm in norms])
                total = scores if total is None else total + scores
    if total is None:
        raise ImportanceError("the data loader gave no batch")
    return total


def reorder_hidden(ofa: Any, importance: paddle.Tensor | Sequence[float], axis: str = HIDDEN) -> None:
    """Puts the most important channels of the hidden size first, in every layer at once and in place.

    At full size the model computes the same function as before. Do this before an optimizer has gathered moments: they
    are not reordered. A teacher that is compared hidden layer by hidden layer has to be reordered alike, or mapped
    (``DistillConfig(mapping_op="linear")``), which a smaller hidden size needs in any case.

    Args:
        ofa: an `OFA` (or `Supernet`) with an elastic hidden size.
        importance: float ``[hidden size]``.
        axis: of the hidden size, where the model has several.

    Raises: ImportanceError where the scores do not fit the model; nothing is changed then.
    """
    supernet = Supernet.of(ofa)
    found = _axis(supernet, axis)
    scores = np.asarray(importance, dtype=np.float64)
    if scores.shape != (found.size,) or not np.isfinite(scores).all():
        raise ImportanceError(
            f"axis {axis!r}: scores of shape {list(scores.shape)}, expected are [{found.size}] finite numbers"
        )
    order = np.argsort(-scores, kind="stable")
    with supernet.full():
        reorder_axis(supernet.model, found, order)


def _axis(supernet: Supernet, name: str) -> Axis:
    found = {axis.name: axis for axis in supernet.space.axes if axis.task == HIDDEN}
    if name not in found:
        raise ImportanceError(
            f"no axis {name!r} of a hidden size (there are {', '.join(found) or 'none'}); "
            "Convert(supernet(hidden_size=[...])) makes it elastic"
        )
    return found[name]


def _norms(model: nn.Layer, axis: Axis) -> list[nn.Layer]:
    layers = [layer_at(model, slot.layer) for slot in axis.slots if slot.role == "out"]
    return [layer for layer in layers if (spec := spec_of(layer)) is not None and spec.follows and _affine(layer)]


def _affine(norm: nn.Layer) -> bool:
    return getattr(norm, "weight", None) is not None


def _score(norm: nn.Layer, grads: Any) -> paddle.Tensor:
    """Of each channel, float32; takes the gradients of the norm's weight and bias."""
    found = (norm.weight * next(grads)).astype("float32")
    if norm.bias is not None:
        found = found + (norm.bias * next(grads)).astype("float32")
    return found.abs()
