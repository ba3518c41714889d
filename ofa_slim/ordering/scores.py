"""Scores of heads and neurons by |parameter · gradient|, and reordering a model by them.

Works on any model with a stack of a known family (`ofa_slim.supernet.families`), before and after `Convert` or
`OFA`. Source of both scores: Hou et al. 2020, DynaBERT, arXiv:2004.04037.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import paddle
from paddle import nn

from ofa_slim.base.modes import eval_mode, plain_forwards
from ofa_slim.base.progress import counted
from ofa_slim.base.unwrap import unwrap
from ofa_slim.errors import ImportanceError
from ofa_slim.ordering.reorder import reorder_axis
from ofa_slim.supernet.axis import Axis
from ofa_slim.supernet.families import (
    Stack,
    attention_heads,
    find_stacks,
    left_out,
    max_sizes,
    stack_axes,
)
from ofa_slim.supernet.handle import full_size
from ofa_slim.supernet.paths import joined, layer_at

__all__ = [
    "compute_neuron_head_importance",
    "reorder_head",
    "reorder_neuron",
    "reorder_neuron_head",
]

HeadScores = paddle.Tensor | list[paddle.Tensor]

_LABELS = ("labels", "label")
_INTERMEDIATE, _OUTPUT = "linear1", "linear2"


def compute_neuron_head_importance(
    task_name: str,
    model: nn.Layer,
    data_loader: Iterable[Any],
    num_layers: int,
    num_heads: int,
    loss_fct: Callable[..., paddle.Tensor] | None = None,
    intermediate_name: str = _INTERMEDIATE,
    output_name: str = _OUTPUT,
    accumulate: bool = False,
) -> tuple[HeadScores, list[paddle.Tensor]]:
    """Scores every head and every feed-forward neuron of a model on some batches.

    The score of a head is the absolute gradient of the loss to a mask on it, that of a neuron
    ``|sum(w1 * g1 + b1 * g1b)| + |sum(w2 * g2)|`` over its own weights; both are computed per batch and summed.
    The model runs in full and in eval mode, one backward pass per batch; its mode, gradients and active
    sub-network are restored at the end.

    Args:
        task_name: free text, shown with the progress.
        model: a plain model, a supernet or an `OFA`.
        data_loader: batches. A tuple or list is the model's inputs in order and, last, the labels; a dictionary is
            the model's keyword arguments and the labels as ``"labels"``.
        num_layers: how many blocks the model has; a block that is called repeatedly counts once.
        num_heads: how many heads each block has; the largest number where blocks differ.
        loss_fct: ``loss_fct(model output, labels)`` -> scalar; cross entropy by default.
        intermediate_name: path in a block of the first feed-forward layer; the default is that of the model's family.
        output_name: the same of the second feed-forward layer.
        accumulate: whether gradients add up over the batches, as in the published library: the score of batch `k` is
            then that of the summed gradients of batches 1 to `k`.

    Returns: float32 ``[num_layers, num_heads]`` (where blocks have unequal numbers of heads, as a searched sub-network
        has, float32 ``[heads]`` per layer) and, per layer, float32 ``[neurons]``; in units of the loss, at least 0.
        What an exported model is without has scores of shape ``[0]``.

    Raises: ImportanceError where the model has no such layers or counts, a batch has no labels, or there
        is no batch.
    """
    network = unwrap(model)
    parts = block_parts(network, num_layers, num_heads, intermediate_name, output_name)
    weights = [weight for part in parts for weight in part.weights]

    def scores(grads: Iterator[paddle.Tensor]) -> list[paddle.Tensor]:
        return [score for part in parts for score in part.scores([next(grads) for _ in part.weights])]

    description = f"importance {task_name}".strip()
    totals = summed_scores(network, weights, data_loader, loss_fct, scores, description, accumulate)
    heads, neurons = totals[::2], totals[1::2]
    return (paddle.stack(heads) if len({part.num_heads for part in parts}) == 1 else heads), neurons


def summed_scores(
    model: nn.Layer,
    weights: list[paddle.Tensor],
    data_loader: Iterable[Any],
    loss_fct: Callable[..., paddle.Tensor] | None,
    scores: Callable[[Iterator[paddle.Tensor]], list[paddle.Tensor]],
    description: str,
    accumulate: bool = False,
) -> list[paddle.Tensor]:
    """Scores summed over batches, with the model in full and in eval mode.

    Args:
        model: the model, unwrapped.
        weights: the parameters whose gradients the scores need.
        data_loader: batches, as in `compute_neuron_head_importance`.
        loss_fct: as there.
        scores: the gradients of `weights` for one batch -> scores.
        description: shown with the progress.
        accumulate: as in `compute_neuron_head_importance`.

    Raises: ImportanceError for a batch without labels, or no batch.
    """
    loss_fct = nn.CrossEntropyLoss() if loss_fct is None else loss_fct
    totals: list[paddle.Tensor] = []
    summed: list[paddle.Tensor] = []
    with full_size(model), scoring(model, weights):
        for batch in counted(data_loader, description, "batches"):
            args, kwargs, labels = split_batch(batch)
            grads = paddle.grad(loss_fct(model(*args, **kwargs), labels), weights)
            # Without no_grad the sums would keep the gradients of every batch alive.
            with paddle.no_grad():
                if accumulate:
                    grads = summed = _added(summed, grads)
                totals = _added(totals, scores(iter(grads)))
    if not totals:
        raise ImportanceError("the data loader gave no batch")
    return totals


def _added(totals: list[paddle.Tensor], new: list[paddle.Tensor]) -> list[paddle.Tensor]:
    return [a + b if a.size else a for a, b in zip(totals, new, strict=True)] if totals else new


def reorder_neuron_head(
    model: nn.Layer, head_importance: HeadScores, neuron_importance: Sequence[paddle.Tensor]
) -> None:
    """Puts the most important heads and neurons of every block first, in place.

    The model computes the same function as before. Where all blocks must keep the same heads (a bias for each head
    serves them all), their scores are added. Do this before an optimizer has moments: they are not reordered.

    Args:
        model: a plain model, a supernet or an `OFA`.
        head_importance: float ``[layers, heads]``, or float ``[heads]`` per layer.
        neuron_importance: float ``[neurons]`` per layer.

    Raises: ImportanceError where the scores do not fit the model; nothing is changed then.
    """
    network = unwrap(model)
    blocks = _blocks(network)
    if len(head_importance) != len(blocks) or len(neuron_importance) != len(blocks):
        raise ImportanceError(
            f"scores of {len(head_importance)} layers' heads and {len(neuron_importance)} layers' neurons, "
            f"but the model has {len(blocks)} blocks"
        )
    orders: list[tuple[Axis, np.ndarray]] = []
    by_path = {path: number for number, (path, _, _) in enumerate(blocks)}
    with full_size(network):
        for stack in find_stacks(network):
            heads, neurons = stack.family.heads.name, stack.family.ffn.name
            for axis in stack_axes(network, stack):
                kind = axis.name.rpartition(".")[2] if isinstance(axis, Axis) else ""
                if kind not in (heads, neurons) or not isinstance(axis, Axis):
                    continue
                cut = [path for path in stack.blocks if any(slot.layer.startswith(f"{path}.") for slot in axis.slots)]
                unit, importance = ("head", head_importance) if kind == heads else ("neuron", neuron_importance)
                scores = [_checked_scores(importance[by_path[path]], path, unit, axis.size) for path in cut]
                orders.append((axis, descending(np.sum(scores, axis=0))))
        for axis, order in orders:
            reorder_axis(network, axis, order)


def reorder_head(layer: nn.Layer, index: Sequence[int] | np.ndarray | paddle.Tensor) -> None:
    """Reorders the heads of an attention layer in place; it computes the same function.

    Args:
        layer: `paddle.nn.MultiHeadAttention` or the attention of another family, plain or elastic.
        index: the head for each new position; a permutation of the heads.

    Raises: ImportanceError for another layer, also an attention whose heads can only be reordered in all blocks at
        once (see `reorder_neuron_head`), or an index that is not a permutation.
    """
    with full_size(layer):
        axis = attention_heads(layer)
        if axis is None:
            raise ImportanceError(f"reorder_head: {type(layer).__name__} is not a MultiHeadAttention")
        reorder_axis(layer, axis, _permutation(index, axis.size))


def reorder_neuron(layer: nn.Layer, index: Sequence[int] | np.ndarray | paddle.Tensor, dim: int = 0) -> None:
    """Reorders the inputs or outputs of a linear layer in place.

    Args:
        layer: `paddle.nn.Linear` or its elastic form; weight ``[in, out]``.
        index: the neuron for each new position; a permutation.
        dim: 0 reorders the inputs, 1 the outputs and the bias.

    Raises: ImportanceError for another layer or `dim`, or an index that is not a permutation.
    """
    if not isinstance(layer, nn.Linear):
        raise ImportanceError(f"reorder_neuron: {type(layer).__name__} is not a Linear")
    if dim not in (0, 1):
        raise ImportanceError(f"reorder_neuron: dim {dim!r} is not 0 (inputs) or 1 (outputs)")
    order = paddle.to_tensor(_permutation(index, layer.weight.shape[dim]), place=layer.weight.place)
    with paddle.no_grad():
        layer.weight.set_value(paddle.index_select(layer.weight, order, axis=dim))
        if dim == 1 and layer.bias is not None:
            layer.bias.set_value(paddle.index_select(layer.bias, order))


class BlockPart:
    """The weights from which one block's scores are computed; what is left out of the block has no scores."""

    def __init__(self, path: str, stack: Stack, block: nn.Layer, intermediate: str, output: str) -> None:
        family = stack.family
        self.path = path
        heads, ffn = family.heads.of_block(block), family.ffn.of_block(block)
        gone = {row.name for place, _, row in left_out(stack) if place == path}
        self.num_heads = 0
        self.weights: list[paddle.Tensor] = []
        self._biased: list[bool] = []
        if heads.name not in gone:
            attention = layer_at(block, heads.counted[0])
            sizes = max_sizes(attention)
            if sizes is None:
                raise ImportanceError(f"{path}: {type(attention).__name__} has its own forward")
            self.num_heads = sizes[heads.counted[1]]
            self.weights.append(_linear(block, path, heads.place("in")).weight)
        if ffn.name in gone:
            return
        # The published defaults are Paddle's names; other families have their own.
        inner = [name for name, role in ffn.slots if role == "out"] if intermediate == _INTERMEDIATE else [intermediate]
        first = [_linear(block, path, name) for name in inner]
        second = _linear(block, path, ffn.place("in") if output == _OUTPUT else output)
        self.weights.append(second.weight)
        self._biased = [layer.bias is not None for layer in first]
        for layer in first:
            self.weights += [layer.weight] if layer.bias is None else [layer.weight, layer.bias]

    def scores(self, grads: list[paddle.Tensor]) -> tuple[paddle.Tensor, paddle.Tensor]:
        """Scores of the heads ``[heads]`` and of the neurons ``[neurons]``, float32, for one batch."""
        left = iter([(weight * grad).astype("float32") for weight, grad in zip(self.weights, grads, strict=True)])
        head = neuron = paddle.zeros([0])
        # A mask on a head scales the rows of the projection that belong to it, so this sum is its gradient.
        if self.num_heads:
            head = next(left).reshape([self.num_heads, -1]).sum(axis=1).abs()
        if self._biased:
            neuron = next(left).sum(axis=1).abs()
        for biased in self._biased:
            incoming = next(left).sum(axis=0)
            if biased:
                incoming = incoming + next(left)
            # A gate and what it multiplies, in one layer, give two numbers for each neuron.
            neuron = neuron + incoming.reshape([-1, neuron.shape[0]]).abs().sum(axis=0)
        return head, neuron


def block_parts(
    model: nn.Layer, num_layers: int, num_heads: int, intermediate_name: str, output_name: str
) -> list[BlockPart]:
    """The `BlockPart` of each block; the arguments are those of `compute_neuron_head_importance`.

    Raises: ImportanceError where the model has no such layers or counts.
    """
    blocks = _blocks(model)
    if len(blocks) != num_layers:
        raise ImportanceError(f"num_layers is {num_layers}, but the model has {len(blocks)} blocks")
    parts = [BlockPart(*block, intermediate_name, output_name) for block in blocks]
    most = max(parts, key=lambda part: part.num_heads)
    if most.num_heads != num_heads:
        raise ImportanceError(f"num_heads is {num_heads}, but {most.path} has {most.num_heads} heads")
    return parts


def _blocks(model: nn.Layer) -> list[tuple[str, Stack, nn.Layer]]:
    stacks = find_stacks(model)
    if not stacks:
        raise ImportanceError(
            f"this {type(model).__name__} has no stack of blocks of a known family (such as "
            "paddle.nn.TransformerEncoder), so its heads are not known; register a table that tells where they are "
            "with ofa_slim.supernet.register_family, see docs/a-family-of-your-own.md"
        )
    return [(path, stack, block) for stack in stacks for path, block in stack.blocks.items()]


def _linear(block: nn.Layer, path: str, name: str) -> nn.Layer:
    try:
        layer = layer_at(block, name)
    except (AttributeError, KeyError):
        layer = None
    if not isinstance(layer, nn.Linear):
        raise ImportanceError(f"{joined(path, name)} is not a Linear of this model")
    return layer


def _checked_scores(given: paddle.Tensor, path: str, unit: str, count: int) -> np.ndarray:
    """The scores of one block, float64 ``[count]``; raises `ImportanceError` for another shape."""
    if list(given.shape) != [count]:
        raise ImportanceError(f"{path}: {unit} scores of shape {list(given.shape)}, expected [{count}]")
    return np.asarray(given, dtype=np.float64)


@contextmanager
def scoring(model: nn.Layer, weights: list[paddle.Tensor]) -> Iterator[None]:
    """Eval mode, and gradients for `weights` even if they are frozen; undone at the end."""
    frozen = [weight for weight in weights if weight.stop_gradient]
    try:
        for weight in frozen:
            weight.stop_gradient = False
        with plain_forwards(model), eval_mode(model), paddle.enable_grad():
            yield
    finally:
        for weight in frozen:
            weight.stop_gradient = True


def split_batch(batch: Any) -> tuple[tuple[Any, ...], dict[str, Any], Any]:
    """The positional inputs, keyword inputs and labels of a batch, which is not changed."""
    if isinstance(batch, Mapping):
        key = next((name for name in _LABELS if name in batch), None)
        if key is None:
            raise ImportanceError(f"a batch has no 'labels', only {', '.join(map(str, batch))}")
        return (), {name: value for name, value in batch.items() if name != key}, batch[key]
    if not isinstance(batch, (tuple, list)) or len(batch) < 2:
        raise ImportanceError(
            f"a batch is a {type(batch).__name__}; a tuple or list of inputs and labels, or a dictionary, is needed"
        )
    return tuple(batch[:-1]), {}, batch[-1]


def descending(scores: np.ndarray) -> np.ndarray:
    """The order from the highest score to the lowest; equal ones keep their order."""
    return np.argsort(-scores, kind="stable")


def _permutation(index: Sequence[int] | paddle.Tensor | np.ndarray, size: int) -> np.ndarray:
    order = np.asarray(index).reshape(-1)
    if order.dtype.kind not in "iu" or sorted(order.tolist()) != list(range(size)):
        raise ImportanceError(f"index {order.tolist()[:16]} is not a permutation of 0 to {size - 1}")
    return order.astype(np.int64)
