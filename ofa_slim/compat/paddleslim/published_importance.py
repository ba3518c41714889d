"""Importance and reordering with the published signatures and return types."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from typing import Any

import numpy as np
import paddle
from paddle import nn

import ofa_slim.ordering.scores as plain
from ofa_slim.base.modes import forward_signature
from ofa_slim.base.unwrap import unwrap
from ofa_slim.errors import ImportanceError
from ofa_slim.ordering.scores import reorder_head, reorder_neuron_head

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
    """Lets gradients add up over the batches of an importance pass, as they did in the published library.

    The score of batch k is then that of the sum of the first k batches' gradients. With False, the default, each batch
    is scored by its own gradients. The argument `accumulate` of `compute_neuron_head_importance` takes precedence.
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
) -> tuple[plain.HeadScores, list[np.ndarray]]:
    """`ofa_slim.importance.compute_neuron_head_importance` with the published batches and return types.

    Args:
        task_name: name of the task; for ``"mnli"`` the loader may be a list of loaders, used one after the other.
        model: a plain model, a supernet or an `OFA`.
        data_loader: batches ``(input_ids, token_type_ids, labels)``, or dictionaries that hold these. A model that
            takes ``attention_mask=[mask, head_mask]`` is given ``[None, None]``.
        num_layers: how many blocks the model has.
        num_heads: how many heads each block has.
        loss_fct: ``loss_fct(model output, labels)`` -> scalar; cross entropy by default.
        intermediate_name: name of the first feed-forward layer in a block.
        output_name: name of the second.
        accumulate: whether gradients add up over the batches; None: as set by `accumulate_gradients`.

    Returns: float32 ``[num_layers, num_heads]`` and, per layer, a NumPy array float32 ``[neurons]``; in units of the
        loss, at least 0.

    Raises: ImportanceError where the model has no such layers or counts, or there is no batch.
    """
    batches = _with_masks(unwrap(model), _chained(task_name, data_loader))
    heads, neurons = plain.compute_neuron_head_importance(
        task_name,
        model,
        batches,
        num_layers,
        num_heads,
        loss_fct,
        intermediate_name,
        output_name,
        accumulate=_accumulating if accumulate is None else accumulate,
    )
    return heads, [scores.numpy() for scores in neurons]


def reorder_neuron(layer: nn.Layer, index: Any, dim: int = 0) -> None:
    """Reorders the inputs or outputs of a linear layer in place; see `ofa_slim.ordering.scores.reorder_neuron`.

    Args:
        layer: the layer, or a `Block` around it.
        index: for each new position, the neuron that moves there.
        dim: 0 reorders the inputs, 1 the outputs and the bias.
    """
    plain.reorder_neuron(getattr(layer, "fn", layer), index, dim)


def _chained(task_name: str, data_loader: Iterable[Any]) -> Iterable[Any]:
    """The batches of a loader; MNLI has two development sets, so its scripts give a list of loaders."""
    if task_name.lower() != "mnli":
        return data_loader
    return chain.from_iterable([item] if _is_batch(item) else item for item in data_loader)


def _is_batch(item: Any) -> bool:
    return isinstance(item, Mapping) or (
        isinstance(item, (tuple, list)) and bool(item) and isinstance(item[0], paddle.Tensor)
    )


def _with_masks(model: nn.Layer, batches: Iterable[Any]) -> Iterator[Any]:
    """The batches as ``(inputs, labels)``, or by name with ``[mask, head_mask]`` for a model that takes such a list."""
    arguments = list(forward_signature(model).parameters)
    takes_masks = any(_default_mask_is_a_list(layer) for layer in model.sublayers(include_self=True))
    for batch in batches:
        if isinstance(batch, Mapping):
            missing = [name for name in _INPUTS if name not in batch]
            if missing:
                raise ImportanceError(f"a batch has no {missing[0]!r}, only {', '.join(map(str, batch))}")
            batch = tuple(batch[name] for name in _INPUTS)
        if takes_masks:
            # Published forwards fill the list in: one that all calls share would keep the first batch's mask.
            named = dict(zip(arguments, batch[:-1], strict=False))
            batch = {**named, "attention_mask": [None, None], "labels": batch[-1]}
        yield batch


def _default_mask_is_a_list(layer: nn.Layer) -> bool:
    mask = forward_signature(layer).parameters.get("attention_mask")
    return mask is not None and isinstance(mask.default, list)
