"""The blocks of a model: their hidden layers by name, and their importance."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import paddle
from paddle import nn

from ofa_slim.errors import ConfigError
from ofa_slim.ordering.scores import HeadScores, compute_neuron_head_importance
from ofa_slim.supernet.families import Stack, find_stacks, max_sizes
from ofa_slim.supernet.paths import layer_at
from ofa_slim.train.task_losses import TaskLosses

EMBEDDINGS, ALL, NONE = "embeddings", "all", "none"


def only_stack(model: nn.Layer) -> Stack:
    """The stack of blocks of a model.

    Raises: ConfigError for a model with none, or several.
    """
    stacks = find_stacks(model)
    if len(stacks) != 1:
        paths = ", ".join(stack.path for stack in stacks) or "none"
        raise ConfigError(f"{type(model).__name__} has {len(stacks)} stacks of blocks ({paths}); it must have one")
    return stacks[0]


def hidden_layers(model: nn.Layer, wanted: Sequence[str] | None) -> list[str]:
    """The attribute paths of hidden layers.

    Args:
        model: a model with one stack of blocks.
        wanted: ``["all"]`` (or None), the embeddings and every block; ``["none"]``; or any of ``"embeddings"``, the
            numbers of blocks, and attribute paths.

    Raises: ConfigError for a name that the model does not have.
    """
    stack = only_stack(model)
    paths = {str(number): path for number, path in enumerate(stack.blocks)}
    embeddings = ".".join([*stack.path.split(".")[:-1], EMBEDDINGS])
    if _has(model, embeddings):
        paths = {EMBEDDINGS: embeddings, **paths}
    if wanted is None or list(wanted) == [ALL]:
        return list(paths.values())
    if list(wanted) == [NONE]:
        return []
    for name in wanted:
        if name not in paths and not _has(model, name):
            raise ConfigError(
                f"mapped_layers: {name!r} is not a layer of this {type(model).__name__}; it has {', '.join(paths)}, "
                "and attribute paths"
            )
    return list(dict.fromkeys(paths.get(name, name) for name in wanted))


def block_importance(
    model: nn.Layer, losses: TaskLosses, loader: Iterable[Mapping[str, Any]], title: str, limit: int | None = None
) -> tuple[HeadScores, list[paddle.Tensor]]:
    """Scores the heads and neurons of a model's blocks.

    Args:
        model: a plain model or a supernet; it runs in full.
        losses: splits batches and has the task's loss.
        loader: gives batches with labels.
        title: of the progress bar.
        limit: how many batches score; None: all.

    Returns: float32 [blocks, heads], and float32 [neurons] for each block; see `compute_neuron_head_importance`.

    Raises: ConfigError for a batch without labels.
    """
    stack = only_stack(model)
    return compute_neuron_head_importance(
        title,
        model,
        _with_all_labels(losses, islice(loader, limit)),
        len(stack.blocks),
        _heads(stack),
        loss_fct=lambda output, labels_and_mask: losses.task_loss(output, *labels_and_mask),
    )


def _with_all_labels(losses: TaskLosses, loader: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Inputs, with everything that the loss needs as one entry ``labels``."""
    for batch in loader:
        inputs, labels = losses.split(batch)
        if labels is None:
            missing = ", ".join(losses.label_names)
            raise ConfigError(f"importance needs labels ({missing}), but a batch has only {', '.join(batch)}")
        yield {**inputs, "labels": (labels, losses.padding_mask(inputs))}


def _heads(stack: Stack) -> int:
    """How many heads a block has at most."""
    path, role = stack.family.heads.counted
    attentions = [layer_at(block, path) for block in stack.blocks.values()]
    return max((max_sizes(attention) or {}).get(role, 0) for attention in attentions)


def _has(model: nn.Layer, path: str) -> bool:
    try:
        return isinstance(layer_at(model, path), nn.Layer)
    except (AttributeError, KeyError):
        return False
