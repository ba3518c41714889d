"""Importance and reordering with the published signatures and return types."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import chain
from typing import Any

import numpy as np
import paddle
from paddle import nn

import ofa_slim.ordering.scores as plain
from ofa_slim.base.modes import forward_signature
from ofa_slim.base.unwrap import unwrap
from ofa_slim.errors import ImportanceError
from ofa_slim.ordering.scores import block_parts, reorder_neuron_head, scoring
from ofa_slim.supernet.handle import full_size

__all__ = [
    "accumulate_gradients",
    "compute_neuron_head_importance",
    "reorder_head",
    "reorder_neuron",
    "reorder_neuron_head",
]

_INPUTS = ("input_ids", "token_type_ids", "labels")
_accumulating = False


def accumulate_gradients(on: bool = True) -> None:
    """Whether gradients add up over the batches of an importance pass, as they did in the published library.

    The score of batch k is then that of the sum of the first k batches' gradients. False, as at first, scores each
    batch for itself. An argument of `compute_neuron_head_importance` goes before it.
    """
    global _accumulating
    _accumulating = on


def compute_neuron_head_importance(
    task_name: str,
    model: nn.Layer,
    data_loader: Iterable[Any],
    num_layers: int,
    num_heads: int,
    loss_fct: Callable[..., paddle.Tensor] | None = None,
    intermediate_name: str = "linear1",
    output_name: str = "linear2",
    accumulate: bool | None = None,
) -> tuple[paddle.Tensor, list[np.ndarray]]:
    """`ofa_slim.ordering.scores.compute_neuron_head_importance` for published scripts.

    Args:
        task_name: name of the task; for ``"mnli"`` the loader may be a list of loaders, one after the other.
        model: a plain model, a supernet or an `OFA`.
        data_loader: batches ``(input_ids, token_type_ids, labels)``, or dictionaries with these. A model that takes
            ``attention_mask=[mask, head_mask]`` is given ``[None, None]``.
        num_layers: how many blocks the model has.
        num_heads: how many heads each block has.
        loss_fct: ``loss_fct(model output, labels)`` -> scalar; cross entropy by default.
        intermediate_name: name of the first feed-forward layer in a block.
        output_name: name of the second.
        accumulate: whether gradients add up over the batches; None: as `accumulate_gradients` said.

    Returns: float32 ``[num_layers, num_heads]`` and, per layer, a NumPy array float32 ``[neurons]``; in units of the
        loss, at least 0.

    Raises: ImportanceError where the model has no such layers or counts, or there is no batch.
    """
    network = unwrap(model)
    loss_fct = nn.CrossEntropyLoss() if loss_fct is None else loss_fct
    parts = block_parts(network, num_layers, num_heads, intermediate_name, output_name)
    weights = [weight for part in parts for weight in part.weights]
    heads, neurons = np.zeros([num_layers, num_heads], "float32"), [np.zeros(0, "float32")] * num_layers
    kept: list[paddle.Tensor] = []
    batches = 0
    with full_size(network), scoring(network, weights):
        for batch in _batches(task_name, data_loader):
            *inputs, labels = _inputs(batch)
            loss = loss_fct(network(*inputs, **_masks(network)), labels)
            grads = paddle.grad(loss, weights)
            with paddle.no_grad():
                if _accumulating if accumulate is None else accumulate:
                    grads = kept = [old + new for old, new in zip(kept, grads, strict=True)] if kept else grads
                left = iter(grads)
                for row, part in enumerate(parts):
                    head, neuron = part.scores([next(left) for _ in part.weights])
                    heads[row] += head.numpy()
                    neurons[row] = neuron.numpy() + (neurons[row] if batches else 0)
            batches += 1
    if not batches:
        raise ImportanceError("the data loader gave no batch")
    return paddle.to_tensor(heads), neurons


def reorder_head(layer: nn.Layer, index: Any) -> None:
    """Reorders the heads of an attention layer in place; see `ofa_slim.ordering.scores.reorder_head`."""
    plain.reorder_head(layer, index)


def reorder_neuron(layer: nn.Layer, index: Any, dim: int = 0) -> None:
    """Reorders the inputs or outputs of a linear layer in place; see `ofa_slim.ordering.scores.reorder_neuron`.

    Args:
        layer: the layer, or a `Block` around it.
        index: for each new place, the neuron that goes there.
        dim: 0 reorders the inputs, 1 the outputs and the bias.
    """
    plain.reorder_neuron(getattr(layer, "fn", layer), index, dim)


def _batches(task_name: str, data_loader: Iterable[Any]) -> Iterable[Any]:
    """The batches of a loader; MNLI has two development sets, so its scripts give a list of loaders."""
    if task_name.lower() != "mnli":
        return data_loader
    return chain.from_iterable([item] if _is_batch(item) else item for item in data_loader)


def _is_batch(item: Any) -> bool:
    return isinstance(item, Mapping) or (
        isinstance(item, (tuple, list)) and bool(item) and isinstance(item[0], paddle.Tensor)
    )


def _inputs(batch: Any) -> tuple[Any, ...]:
    """The inputs of a batch and its labels."""
    if isinstance(batch, Mapping):
        missing = [name for name in _INPUTS if name not in batch]
        if missing:
            raise ImportanceError(f"a batch has no {missing[0]!r}, only {', '.join(map(str, batch))}")
        return tuple(batch[name] for name in _INPUTS)
    return tuple(batch)


def _masks(model: nn.Layer) -> dict[str, Any]:
    """A fresh ``[mask, head_mask]``, both open, where a forward in the model has such a list as its default.

    Forwards of published scripts fill the list in, so one that is shared between calls keeps the first batch's mask.
    """
    for layer in model.sublayers(include_self=True):
        mask = forward_signature(layer).parameters.get("attention_mask")
        if mask is not None and isinstance(mask.default, list):
            return {"attention_mask": [None, None]}
    return {}
