"""Scores of the units of every width that tracing found, and reordering a supernet by them.

Source: the first-order change of the loss if a unit were removed, Molchanov et al. 2019, arXiv:1906.10771.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import paddle

from ofa_slim.errors import ImportanceError, nearest
from ofa_slim.ordering.reorder import reorder_axis
from ofa_slim.ordering.scores import descending, summed_scores
from ofa_slim.supernet.axis import WIDTH, Axis, Slot
from ofa_slim.supernet.handle import Supernet
from ofa_slim.supernet.paths import layer_at
from ofa_slim.supernet.spec import entries_of, row_of


def compute_width_importance(
    ofa: Any, data_loader: Iterable[Any], loss_fct: Callable[..., paddle.Tensor] | None = None
) -> dict[str, paddle.Tensor]:
    """Scores every unit (head, neuron, channel) of every elastic width on some batches.

    The score is the absolute sum of ``w * gradient`` over what makes the unit in a layer, which is the gradient of the
    loss to a mask on it, computed per batch and summed over the layers that make it and all batches. The model runs in
    full and in eval mode, one backward pass per batch; its mode, gradients and active sub-network are restored at the
    end.

    Args:
        ofa: an `OFA` (or `Supernet`) of any converted model.
        data_loader: batches, as in `ofa_slim.ordering.scores.compute_neuron_head_importance`.
        loss_fct: ``loss_fct(model output, labels)`` -> scalar; cross entropy by default.

    Returns: by the axis's name, float32 ``[size of the axis]``, in units of the loss, at least 0.

    Raises: ImportanceError where no width is elastic, a batch has no labels, or there is no batch.
    """
    supernet = Supernet.of(ofa)
    parts = [_Part(supernet, axis, slot) for axis in _widths(supernet) for slot in axis.slots if slot.is_output]
    if not parts:
        raise ImportanceError("the supernet has no elastic width")
    weights = list({id(weight): weight for part in parts for weight, _ in part.weights}.values())

    def scores(grads: Iterator[paddle.Tensor]) -> list[paddle.Tensor]:
        by_id = dict(zip(map(id, weights), grads, strict=True))
        return [part.scores(by_id) for part in parts]

    totals = summed_scores(supernet.model, weights, data_loader, loss_fct, scores, "importance widths")
    found: dict[str, paddle.Tensor] = {}
    for part, total in zip(parts, totals, strict=True):
        found[part.axis.name] = found[part.axis.name] + total if part.axis.name in found else total
    return found


def reorder_widths(ofa: Any, importance: Mapping[str, paddle.Tensor | Sequence[float]]) -> None:
    """Puts the most important units of each scored width first, in place.

    The whole model computes the same function as before. Do this before an optimizer has moments: they are not
    reordered.

    Args:
        ofa: an `OFA` (or `Supernet`) of any converted model.
        importance: float ``[size of the axis]`` by the axis's name; axes left out keep their order.

    Raises: ImportanceError where the scores do not fit the axes; nothing is changed then.
    """
    supernet = Supernet.of(ofa)
    axes = {axis.name: axis for axis in _widths(supernet)}
    orders = []
    for name, given in importance.items():
        if name not in axes:
            raise ImportanceError(f"no elastic width {name!r}{nearest(name, axes)}")
        scores = np.asarray(given.numpy() if isinstance(given, paddle.Tensor) else given, dtype="float64")
        if scores.shape != (axes[name].size,) or not np.isfinite(scores).all():
            raise ImportanceError(
                f"{name}: scores of shape {list(scores.shape)}, expected [{axes[name].size}] finite numbers"
            )
        orders.append((axes[name], descending(scores)))
    with supernet.full():
        for axis, order in orders:
            reorder_axis(supernet.model, axis, order)


def _widths(supernet: Supernet) -> list[Axis]:
    return [axis for axis in supernet.space.axes if axis.task == WIDTH and axis.elastic]


class _Part:
    """What makes the units of an axis in one layer."""

    def __init__(self, supernet: Supernet, axis: Axis, slot: Slot) -> None:
        layer = layer_at(supernet.model, slot.layer)
        spec = row_of(layer)
        self.axis = axis
        layout = supernet.space.layouts.get((slot.layer, slot.role))
        places = np.array(entries_of(tuple(slot.ranges(axis.size)))).reshape(len(slot.starts), axis.size, slot.unit)
        self.places = places if layout is None else np.asarray(layout)[places]
        self.weights: list[tuple[paddle.Tensor, int]] = []
        for name in spec.params:
            parameter = getattr(layer, name, None)
            if parameter is None or parameter.stop_gradient:
                continue
            roles = spec.roles(layer, name)
            if slot.role in roles:
                self.weights.append((parameter, roles.index(slot.role)))

    def scores(self, grads: Mapping[int, paddle.Tensor]) -> paddle.Tensor:
        """float32 ``[size of the axis]``, from the gradient of each parameter by its id."""
        total = paddle.zeros([self.axis.size], "float32")
        if not self.weights:
            return total
        products = [
            (weight * grads[id(weight)]).astype("float32").moveaxis(dim, 0).reshape([weight.shape[dim], -1]).sum(1)
            for weight, dim in self.weights
        ]
        index = paddle.to_tensor(self.places.reshape(-1), place=products[0].place)
        units = paddle.index_select(paddle.add_n(products), index).reshape(self.places.shape)
        return units.sum(2).abs().sum(0)
