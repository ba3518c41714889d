"""Orders of heads and neurons by Optimal Brain Surgeon, from unlabelled rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import paddle
from paddle import nn

from ofa_slim.base.unwrap import unwrap
from ofa_slim.closed_form.calibration import Calibration
from ofa_slim.closed_form.moments import RIDGE, Moments
from ofa_slim.closed_form.obs import Removal, removal
from ofa_slim.closed_form.sub_layers import BlockRunner, Stream, SubLayer, sub_layers
from ofa_slim.ordering.reorder import reorder_axis
from ofa_slim.supernet.families import find_stacks
from ofa_slim.supernet.handle import full_size
from ofa_slim.supernet.paths import layer_at


@dataclass(frozen=True)
class Statistics:
    """Second moments of what the output matrices of a model multiply.

    Attributes:
        parts: the sub-layers, bottom up.
        moments: by the path of the output matrix.
        rows: of the loader that they are from, on this process.
    """

    parts: list[SubLayer]
    moments: Mapping[str, Moments]
    rows: int

    def removals(self, model: nn.Layer, ridge: float = RIDGE) -> dict[str, Removal]:
        """By axis, the nested order of its units and the error at each size; see `obs.removal`."""
        found = {}
        for axis in {part.axis.name: part.axis for part in self.parts}.values():
            problems, own = [], [part for part in self.parts if part.axis.name == axis.name]
            for part in own:
                matrix = layer_at(model, part.matrix)
                second = self.moments[part.matrix].second(matrix.bias is not None)
                problems.append((second, matrix.weight.astype("float64").numpy(), part.unit))
            found[axis.name] = removal(problems, ridge)
        return found


def statistics(model: nn.Layer, calibration: Calibration) -> Statistics:
    """Runs a model once over the calibration rows; see `Statistics`.

    Args:
        model: a plain model, or a supernet, of which the whole runs.
        calibration: its rows; of data-parallel processes each has its own, and the sums are of all.
    """
    network = unwrap(model)
    with full_size(network):
        parts = sub_layers(network)
        moments = {part.matrix: Moments(layer_at(network, part.matrix).weight.shape[0]) for part in parts}
        watched = [(path, "input") for path in moments]
        runner = BlockRunner(network, calibration.batches[0])
        for batch in calibration:
            _, _, seen = runner.run(batch, Stream(), 0, None, watched)
            for path, _ in watched:
                for values in seen[path, "input"]:
                    moments[path].add(batch.flat(values))
    for one in moments.values():
        one.reduce()
    return Statistics(parts, moments, calibration.rows)


def obs_importance(
    model: nn.Layer, loader: Iterable[Any], rows: int | None = 2048, ridge: float = RIDGE
) -> tuple[paddle.Tensor, list[paddle.Tensor]]:
    """Scores of heads and neurons whose order is that of Optimal Brain Surgeon; no label is read.

    Args:
        model: a plain model, a supernet or an `OFA`; it runs in full and in eval mode.
        loader: batches of inputs; see `Calibration`.
        rows: how many rows to use at most.
        ridge: added to the diagonal of each second moment, as a share of its mean.

    Returns: float32 ``[layers, heads]`` and, per layer, float32 ``[neurons]``, as `reorder_neuron_head` takes them:
        the later a unit would be removed, the higher, from 1 to the number of units.

    Raises: CalibrationError for a loader without a batch or with other inputs, and for models without known blocks.
    """
    network = unwrap(model)
    with full_size(network):
        found = statistics(network, Calibration(network, loader, rows))
        return importance_of(network, found, found.removals(network, ridge))


def importance_of(
    model: nn.Layer, found: Statistics, removals: Mapping[str, Removal]
) -> tuple[paddle.Tensor, list[paddle.Tensor]]:
    """The scores that `obs_importance` gives, of removals that are known.

    Args:
        model: the model that `found` is of.
        found: its statistics.
        removals: by axis; `Statistics.removals`.
    """
    stacks = find_stacks(model)
    kinds = {stack.family.heads.name for stack in stacks}
    further = {row.name for stack in stacks for row in stack.family.further}
    heads: dict[str, paddle.Tensor] = {}
    neurons: dict[str, paddle.Tensor] = {}
    for part in found.parts:
        if part.axis.name.rpartition(".")[2] in further:  # `reorder_by_obs` orders these too
            continue
        order = removals[part.axis.name].order
        scores = np.empty(len(order), dtype=np.float32)
        scores[order] = np.arange(len(order), 0, -1)
        (heads if part.axis.name.rpartition(".")[2] in kinds else neurons)[part.block] = paddle.to_tensor(scores)
    return paddle.stack(list(heads.values())), list(neurons.values())


def reorder_by_obs(model: nn.Layer, removals: Mapping[str, Removal]) -> None:
    """Puts the units that are kept longest first, in place; at full size the model computes the same.

    Args:
        model: the model that `removals` are of.
        removals: by axis; `Statistics.removals`.
    """
    network = unwrap(model)
    with full_size(network):
        for axis in {part.axis.name: part.axis for part in sub_layers(network)}.values():
            reorder_axis(network, axis, removals[axis.name].order)
