"""Scores of heads and neurons by |parameter · gradient|, and reordering a model by them.

Everything works on any model that holds a stack of a known family (`ofa_slim.supernet.families`), before and after
`Convert` or `OFA`. Source of both scores: Hou et al. 2020, DynaBERT, arXiv:2004.04037.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import paddle
from paddle import nn
from tqdm import tqdm

from ofa_slim.base.modes import eval_mode, plain_forwards
from ofa_slim.base.unwrap import unwrap
from ofa_slim.errors import ImportanceError
from ofa_slim.ordering.reorder import reorder_axis
from ofa_slim.supernet.families import Stack, attention_heads, find_stacks, layer_at, max_sizes, stack_axes
from ofa_slim.supernet.families.base import joined
from ofa_slim.supernet.handle import full_size
from ofa_slim.supernet.space import Axis

__all__ = [
    "compute_neuron_head_importance",
    "reorder_head",
    "reorder_neuron",
    "reorder_neuron_head",
]

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
) -> tuple[paddle.Tensor, list[paddle.Tensor]]:
    """Scores every head and every feed-forward neuron of a model on some batches.

    The score of a head is the absolute gradient of the loss to a mask on it, that of a neuron
    ``|sum(w1 * g1 + b1 * g1b)| + |sum(w2 * g2)|`` over its own weights; both are summed over the batches,
    each batch for itself. The model runs in full and in eval mode, one backward pass per batch; its mode,
    gradients and active sub-network are those of before when this returns.

    Args:
        task_name: free text, shown beside the progress.
        model: a plain model, a supernet or an `OFA`.
        data_loader: batches. A tuple or list holds the model's inputs in order and, last, the labels; a
            dictionary holds the model's keyword arguments and the labels as ``"labels"``.
        num_layers: how many blocks the model has; blocks that are called again and again count once.
        num_heads: how many heads each block has.
        loss_fct: ``loss_fct(model output, labels)`` -> scalar; cross entropy by default.
        intermediate_name: path in a block of the first feed-forward layer; the default is that of the model's family.
        output_name: path in a block of the second, likewise.
        accumulate: scores each batch by the summed gradients of all batches so far, as PaddleSlim does.

    Returns: float32 ``[num_layers, num_heads]`` and, per layer, float32 ``[neurons]``; in units of the
        loss, at least 0.

    Raises: ImportanceError where the model has no such layers or counts, a batch has no labels, or there
        is no batch.
    """
    network = unwrap(model)
    loss_fct = nn.CrossEntropyLoss() if loss_fct is None else loss_fct
    parts = block_parts(network, num_layers, num_heads, intermediate_name, output_name)
    weights = [weight for part in parts for weight in part.weights]
    heads: list[paddle.Tensor] = []
    neurons: list[paddle.Tensor] = []
    gathered: list[paddle.Tensor] = []
    batches = 0
    with full_size(network), scoring(network, weights):
        for batch in tqdm(data_loader, desc=f"importance {task_name}".strip(), leave=False):
            args, kwargs, labels = split_batch(batch)
            loss = loss_fct(network(*args, **kwargs), labels)
            grads = paddle.grad(loss, weights)
            # The sums must not remember what they were made from: that is every gradient of every batch.
            with paddle.no_grad():
                if accumulate:
                    grads = gathered = _added(gathered, grads)
                left = iter(grads)
                scores = [part.scores([next(left) for _ in part.weights]) for part in parts]
                heads = _added(heads, [head for head, _ in scores])
                neurons = _added(neurons, [neuron for _, neuron in scores])
            batches += 1
    if not batches:
        raise ImportanceError("the data loader gave no batch")
    return paddle.stack(heads), neurons


def reorder_neuron_head(
    model: nn.Layer, head_importance: paddle.Tensor, neuron_importance: Sequence[paddle.Tensor]
) -> None:
    """Puts the most important heads and neurons of every block first, in place.

    The model computes the same function as before. Where all blocks have to keep the same heads (a bias for each head
    serves them all), their scores are added. Do this before an optimizer has gathered moments: they are not reordered.

    Args:
        model: a plain model, a supernet or an `OFA`.
        head_importance: float ``[layers, heads]``.
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
                given = head_importance if kind == heads else neuron_importance
                what = "head" if kind == heads else "neuron"
                found = [_scores(given[by_path[path]], path, what, axis.size) for path in cut]
                orders.append((axis, _descending(np.sum(found, axis=0))))
        for axis, order in orders:
            reorder_axis(network, axis, order)


def reorder_head(layer: nn.Layer, index: Sequence[int] | np.ndarray | paddle.Tensor) -> None:
    """Reorders the heads of an attention layer in place; it computes the same function.

    Args:
        layer: `paddle.nn.MultiHeadAttention` or the attention of another family, plain or elastic.
        index: for each new place, the head that goes there; a permutation of the heads.

    Raises: ImportanceError for another layer, also an attention whose heads can only be reordered in all blocks at
        once (see `reorder_neuron_head`), or an index that is no permutation.
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
        index: for each new place, the neuron that goes there; a permutation.
        dim: 0 reorders the inputs, 1 the outputs and the bias.

    Raises: ImportanceError for another layer or `dim`, or an index that is no permutation.
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
    """What one block's scores are made of."""

    def __init__(self, path: str, stack: Stack, block: nn.Layer, intermediate: str, output: str) -> None:
        family = stack.family
        self.path = path
        attention = layer_at(block, family.heads.counted[0])
        sizes = max_sizes(attention)
        if sizes is None:
            raise ImportanceError(f"{path}: {type(attention).__name__} has a forward of its own")
        self.num_heads: int = sizes["heads"]
        projection = _linear(block, path, family.heads.place("in"))
        # The published defaults are Paddle's names; other families have their own.
        first = _linear(block, path, family.intermediate if intermediate == _INTERMEDIATE else intermediate)
        second = _linear(block, path, family.output if output == _OUTPUT else output)
        self.weights = [projection.weight, first.weight, second.weight]
        if first.bias is not None:
            self.weights.append(first.bias)

    def scores(self, grads: list[paddle.Tensor]) -> tuple[paddle.Tensor, paddle.Tensor]:
        """Scores of the heads ``[heads]`` and of the neurons ``[neurons]``, float32, for one batch."""
        saliency = [(weight * grad).astype("float32") for weight, grad in zip(self.weights, grads, strict=True)]
        projection, first, second = saliency[:3]
        # A mask on a head scales the rows of the projection that belong to it, so this sum is its gradient.
        head = projection.reshape([self.num_heads, -1]).sum(axis=1).abs()
        into = first.sum(axis=0) + saliency[3] if len(saliency) == 4 else first.sum(axis=0)
        return head, into.abs() + second.sum(axis=1).abs()


def block_parts(
    model: nn.Layer, num_layers: int, num_heads: int, intermediate_name: str, output_name: str
) -> list[BlockPart]:
    """What the scores of each block are made of; the arguments are those of `compute_neuron_head_importance`.

    Raises: ImportanceError where the model has no such layers or counts.
    """
    blocks = _blocks(model)
    if len(blocks) != num_layers:
        raise ImportanceError(f"num_layers is {num_layers}, but the model has {len(blocks)} blocks")
    parts = [BlockPart(*block, intermediate_name, output_name) for block in blocks]
    for part in parts:
        if part.num_heads != num_heads:
            raise ImportanceError(f"num_heads is {num_heads}, but {part.path} has {part.num_heads} heads")
    return parts


def _blocks(model: nn.Layer) -> list[tuple[str, Stack, nn.Layer]]:
    stacks = find_stacks(model)
    if not stacks:
        raise ImportanceError(
            f"this {type(model).__name__} holds no stack of blocks of a known family (such as "
            "paddle.nn.TransformerEncoder), so its heads are not known; ofa_slim.supernet.register_family takes a "
            "table that says where they are: docs/a-family-of-your-own.md shows one"
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


def _scores(given: paddle.Tensor, path: str, kind: str, count: int) -> np.ndarray:
    """The scores of one block, float64 ``[count]``; raises `ImportanceError` where there are more or fewer."""
    if list(given.shape) != [count]:
        raise ImportanceError(f"{path}: {kind} scores of shape {list(given.shape)}, expected [{count}]")
    return np.asarray(given, dtype=np.float64)


@contextmanager
def scoring(model: nn.Layer, weights: list[paddle.Tensor]) -> Iterator[None]:
    """Eval mode, and gradients to `weights` whether they are frozen or not; undone at the end."""
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
    """The positional inputs, keyword inputs and labels of a batch, which stays as it is."""
    if isinstance(batch, Mapping):
        key = next((name for name in _LABELS if name in batch), None)
        if key is None:
            raise ImportanceError(f"a batch has no 'labels', only {', '.join(map(str, batch))}")
        return (), {name: value for name, value in batch.items() if name != key}, batch[key]
    if not isinstance(batch, (tuple, list)) or len(batch) < 2:
        raise ImportanceError(
            f"a batch is a {type(batch).__name__}; needed is a tuple or list of inputs and labels, or a dictionary"
        )
    return tuple(batch[:-1]), {}, batch[-1]


def _added(totals: list[paddle.Tensor], new: list[paddle.Tensor]) -> list[paddle.Tensor]:
    return [a + b for a, b in zip(totals, new, strict=True)] if totals else new


def _descending(scores: np.ndarray) -> np.ndarray:
    return np.argsort(-scores, kind="stable")


def _permutation(index: Sequence[int] | paddle.Tensor | np.ndarray, size: int) -> np.ndarray:
    order = np.asarray(index).reshape(-1)
    if order.dtype.kind not in "iu" or sorted(order.tolist()) != list(range(size)):
        raise ImportanceError(f"index {order.tolist()[:16]} is no permutation of 0 to {size - 1}")
    return order.astype(np.int64)
