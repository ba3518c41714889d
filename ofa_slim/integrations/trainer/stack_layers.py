"""The blocks of a model: their hidden layers by name, and their importance."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from paddle import nn

from ofa_slim.errors import ConfigError
from ofa_slim.integrations.trainer.arguments import ALL, NONE
from ofa_slim.integrations.trainer.batches import Batches
from ofa_slim.ordering.scores import compute_neuron_head_importance, reorder_neuron_head
from ofa_slim.supernet.families import Stack, find_stacks, layer_at, max_sizes
from ofa_slim.train import parallel

EMBEDDINGS = "embeddings"


def only_stack(model: nn.Layer) -> Stack:
    """The stack of blocks of a model.

    Raises: ConfigError for a model with none, or several.
    """
    stacks = find_stacks(model)
    if len(stacks) != 1:
        found = ", ".join(stack.path for stack in stacks) or "none"
        raise ConfigError(f"{type(model).__name__} holds {len(stacks)} stacks of blocks ({found}); needed is one")
    return stacks[0]


def hidden_layers(model: nn.Layer, wanted: Sequence[str] | None) -> list[str]:
    """The attribute paths of the hidden layers that `OFAArguments.mapped_layers` names, None like ``["all"]``.

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
                f"mapped_layers: {name!r} is no layer of this {type(model).__name__}; it has {', '.join(paths)}, and "
                "attribute paths"
            )
    return list(dict.fromkeys(paths.get(name, name) for name in wanted))


def reorder(model: nn.Layer, batches: Batches, loader: Iterable[Mapping[str, Any]], limit: int, title: str) -> None:
    """Puts heads and neurons in order of importance; several processes score their own batches and agree.

    Args:
        model: in full, a supernet or not.
        batches: takes batches apart and has the task's loss.
        loader: gives batches with labels.
        limit: how many of them score; 0: all.
        title: of the progress bar.
    """
    stack = only_stack(model)
    heads, neurons = compute_neuron_head_importance(
        title,
        model,
        _scored(batches, islice(loader, limit or None)),
        len(stack.blocks),
        _heads(stack),
        loss_fct=lambda output, wanted: batches.task_loss(output, *wanted),
    )
    reorder_neuron_head(model, parallel.mean_over_ranks(heads), [parallel.mean_over_ranks(one) for one in neurons])


def _scored(batches: Batches, loader: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Inputs, with all that the loss needs as one ``labels``."""
    for batch in loader:
        inputs, labels = batches.taken_apart(batch)
        if labels is None:
            missing = ", ".join(batches.label_names)
            raise ConfigError(f"importance needs labels ({missing}), but a batch has only {', '.join(batch)}")
        yield {**inputs, "labels": (labels, batches.real(inputs))}


def _heads(stack: Stack) -> int:
    """How many heads a block has, the first one standing for all."""
    block = next(iter(stack.blocks.values()))
    return (max_sizes(layer_at(block, stack.family.heads.counted[0])) or {}).get("heads", 0)


def _has(model: nn.Layer, path: str) -> bool:
    try:
        return isinstance(layer_at(model, path), nn.Layer)
    except (AttributeError, KeyError):
        return False
