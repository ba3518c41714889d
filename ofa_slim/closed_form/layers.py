"""Orders and repair for models without a table: convolutions and linear layers whose widths were traced.

The rows of a convolution are its input windows (im2col), so that it is a matrix as a linear layer is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import nn

from ofa_slim.base.nested import first_tensor
from ofa_slim.closed_form.calibration import Batch, Calibration
from ofa_slim.closed_form.moments import RIDGE, Moments
from ofa_slim.closed_form.obs import Removal, removal
from ofa_slim.closed_form.repair import SubLayerError
from ofa_slim.supernet.axis import Axis, Slot
from ofa_slim.supernet.handle import full_size
from ofa_slim.supernet.paths import layer_at
from ofa_slim.supernet.space import SearchSpace
from ofa_slim.supernet.spec import Sizes, entries_of


def channel_removals(
    model: nn.Layer, space: SearchSpace, calibration: Calibration, ridge: float = RIDGE
) -> dict[str, Removal]:
    """By axis, the nested order of its channels and the error at each size; see `obs.removal`.

    A channel's costs are added over all layers that read it. Axes that a layer of another kind reads (a grouped
    convolution, parts of a concatenation) are left out.

    Args:
        model: a plain model, or a supernet, of which the whole runs.
        space: its axes.
        calibration: the rows.
        ridge: of the mean diagonal of the second moments.
    """
    readers = {
        axis.name: [slot for slot in axis.slots if slot.role == "in"]
        for axis in space.axes
        if all(_reads_alone(layer_at(model, slot.layer), axis, slot) for slot in axis.slots if slot.role == "in")
    }
    paths = {slot.layer for slots in readers.values() for slot in slots}
    moments = {path: Moments(_matrix(layer_at(model, path)).shape[0]) for path in paths}
    with full_size(model):
        for batch in calibration:
            with _seeing(model, sorted(paths)) as seen:
                batch.example.call(model)
            for path, calls in seen.items():
                for inputs, _ in calls:
                    moments[path].add(_rows(layer_at(model, path), inputs, batch))
    for path in sorted(paths):
        moments[path].reduce()
    found = {}
    for name, slots in readers.items():
        problems = []
        for slot in slots:
            layer = layer_at(model, slot.layer)
            second = moments[slot.layer].second(layer.bias is not None)
            problems.append((second, _matrix(layer), slot.unit * _window(layer)))
        if problems:
            found[name] = removal(problems, ridge)
    return found


def _reads_alone(layer: nn.Layer, axis: Axis, slot: Slot) -> bool:
    """Whether the inputs of a matrix are the units of one axis, one after the other."""
    if not _is_matrix(layer):
        return False
    return slot.starts == (0,) and axis.size * slot.unit * _window(layer) == _inputs(layer)


def repair_layers(
    model: nn.Layer,
    original: nn.Layer,
    sizes: Mapping[str, Sizes],
    calibration: Calibration,
    ridge: float = RIDGE,
) -> list[SubLayerError]:
    """Refits every convolution and linear layer of a smaller model in place, in the order in which they run.

    Each is fitted to what the same layer of the original gives at the channels that are left, on the smaller model's
    own inputs, so it also corrects what those before it have left. Grouped and transposed convolutions stay as they
    are. So do the statistics of batch norms, which are those of the outputs that the layers are fitted to.

    Args:
        model: a plain model cut out of `original`.
        original: a plain model, or a supernet, of which the whole runs.
        sizes: what was kept of each layer, ``SearchSpace.layer_sizes(config)``.
        calibration: the rows.
        ridge: on the change of a matrix, as a share of the mean diagonal of its inputs' second moment.

    Returns: the error of each layer's output per row, in the order in which they ran.
    """
    errors = []
    with full_size(original), paddle.no_grad():
        for path in _in_order(original, calibration.batches[0]):
            layer = layer_at(model, path)
            kept = sizes.get(path, {}).get("out")
            moments = Moments(*_matrix(layer).shape)
            for batch in calibration:
                with _seeing(original, [path]) as wanted, _seeing(model, [path]) as got:
                    batch.example.call(original)
                    batch.example.call(model)
                for (_, target), (inputs, output) in zip(wanted[path], got[path], strict=True):
                    target = _outputs(layer, target, batch)
                    if kept is not None:
                        target = paddle.index_select(target, paddle.to_tensor(entries_of(kept)), axis=1)
                    moments.add(_rows(layer, inputs, batch), target - _outputs(layer, output, batch))
            moments.reduce()
            change, shift = moments.correction(layer.bias is not None, ridge)
            _add(layer, change, shift)
            after = moments.squared_after(change, shift)
            errors.append(SubLayerError(path, moments.squared / moments.rows, after / moments.rows))
    return errors


def _is_matrix(layer: nn.Layer) -> bool:
    if isinstance(layer, nn.Conv2D):
        return layer._groups == 1 and not isinstance(layer._padding, str) and layer._padding_mode == "zeros"
    return isinstance(layer, nn.Linear)


def _in_order(model: nn.Layer, batch: Batch) -> list[str]:
    """The paths of the layers that can be fitted, in the order of their first call."""
    order: list[str] = []
    hooks = [
        layer.register_forward_pre_hook(cast(Any, lambda _, inputs, path=path: order.append(path)))
        for path, layer in model.named_sublayers()
        if _is_matrix(layer)
    ]
    try:
        batch.example.call(model)
    finally:
        for hook in hooks:
            hook.remove()
    return list(dict.fromkeys(order))


@contextmanager
def _seeing(model: nn.Layer, paths: list[str]) -> Iterator[dict[str, list[tuple[paddle.Tensor, paddle.Tensor]]]]:
    """The input and the output of every call of some layers."""
    seen: dict[str, list[tuple[paddle.Tensor, paddle.Tensor]]] = {path: [] for path in paths}

    def record(path: str) -> Any:
        return lambda _, inputs, output: seen[path].append((inputs[0], first_tensor(output)))

    hooks = [layer_at(model, path).register_forward_post_hook(record(path)) for path in paths]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _window(layer: nn.Layer) -> int:
    """How many rows of the matrix belong to one input channel."""
    return int(np.prod(layer.weight.shape[2:])) if isinstance(layer, nn.Conv2D) else 1


def _inputs(layer: nn.Layer) -> int:
    """How many rows the matrix has."""
    return _window(layer) * int(layer.weight.shape[1 if isinstance(layer, nn.Conv2D) else 0])


def _matrix(layer: nn.Layer) -> np.ndarray:
    """The weight as a matrix, float64 [inputs, outputs]; the inputs of one channel of a convolution are neighbours."""
    weight = layer.weight.astype("float64").numpy()
    return weight.reshape([len(weight), -1]).T if isinstance(layer, nn.Conv2D) else weight


def _rows(layer: nn.Layer, inputs: paddle.Tensor, batch: Batch) -> paddle.Tensor:
    """What the matrix multiplies, [rows, inputs]."""
    if not isinstance(layer, nn.Conv2D):
        return batch.flat(inputs)
    windows = F.unfold(inputs, layer.weight.shape[2:], layer._stride, cast(Any, layer._padding), layer._dilation)
    return windows.transpose([0, 2, 1]).reshape([-1, windows.shape[1]])


def _outputs(layer: nn.Layer, outputs: paddle.Tensor, batch: Batch) -> paddle.Tensor:
    """What the matrix gives, [rows, outputs]."""
    if not isinstance(layer, nn.Conv2D):
        return batch.flat(outputs)
    return outputs.transpose([0, 2, 3, 1]).reshape([-1, outputs.shape[1]])


def _add(layer: nn.Layer, change: np.ndarray, shift: np.ndarray | None) -> None:
    weight = layer.weight
    added = paddle.to_tensor(change.T.reshape(weight.shape) if isinstance(layer, nn.Conv2D) else change)
    weight.set_value((weight.astype("float64") + added).astype(weight.dtype))
    if shift is not None:
        layer.bias.set_value((layer.bias.astype("float64") + paddle.to_tensor(shift)).astype(layer.bias.dtype))
