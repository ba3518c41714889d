"""Reordering the units of an axis, in every layer that it cuts at once."""

from __future__ import annotations

import numpy as np
import paddle
from paddle import nn

from ofa_slim.supernet.axis import Axis, Slot
from ofa_slim.supernet.paths import layer_at
from ofa_slim.supernet.spec import row_of


def reorder_axis(model: nn.Layer, axis: Axis, order: np.ndarray) -> None:
    """Reorders the heads, neurons or channels of an axis in place; at full size the model computes the same.

    Args:
        model: a plain model or a supernet that runs in full.
        axis: of that model.
        order: int64 ``[size of the axis]``, the unit for each new position; a permutation.
    """
    done: set[tuple[int, int, tuple[int, ...]]] = set()
    with paddle.no_grad():
        for slot in axis.slots:
            layer = layer_at(model, slot.layer)
            spec = row_of(layer)
            for name in spec.params:
                parameter = getattr(layer, name, None)
                if parameter is None:
                    continue
                for dim, role in enumerate(spec.roles(layer, name)):
                    # A tied parameter belongs to several layers.
                    key = (id(parameter), dim, slot.starts)
                    if role == slot.role and key not in done:
                        done.add(key)
                        _reorder(parameter, dim, _entries(slot, order, parameter.shape[dim]))


def _entries(slot: Slot, order: np.ndarray, size: int) -> np.ndarray:
    """For each entry of a role, the entry that moves there."""
    entries = np.arange(size, dtype=np.int64)
    units = (order[:, None] * slot.unit + np.arange(slot.unit)[None, :]).reshape(-1)
    for start in slot.starts:
        entries[start : start + len(units)] = start + units
    return entries


def _reorder(parameter: paddle.Tensor, dim: int, entries: np.ndarray) -> None:
    index = paddle.to_tensor(entries, place=parameter.place)
    parameter.set_value(paddle.index_select(parameter, index, axis=dim))
