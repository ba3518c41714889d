"""One small table per model family, and finding their stacks in a model."""

from __future__ import annotations

from paddle import nn

from ofa_slim.supernet.axis import Axis
from ofa_slim.supernet.families.decoders import GEMMA, LLAMA, MISTRAL, QWEN2
from ofa_slim.supernet.families.ernie_layout import ERNIE_LAYOUT
from ofa_slim.supernet.families.family import (
    BlockAxis,
    Family,
    Stack,
    left_out,
    max_sizes,
    stack_axes,
    stream_writers,
    weight_reason,
)
from ofa_slim.supernet.families.gpt import GPT
from ofa_slim.supernet.families.post_norm import ALBERT, MPNET, NEZHA
from ofa_slim.supernet.families.t5 import T5
from ofa_slim.supernet.families.transformer_decoder import TRANSFORMER_DECODER
from ofa_slim.supernet.families.transformer_encoder import TRANSFORMER_ENCODER
from ofa_slim.supernet.paths import blocks_at

__all__ = [
    "BlockAxis",
    "Family",
    "Stack",
    "attention_heads",
    "find_stacks",
    "left_out",
    "left_out_axes",
    "max_sizes",
    "register_family",
    "stack_axes",
    "stream_writers",
    "weight_reason",
]

_FAMILIES: list[Family] = [
    TRANSFORMER_ENCODER,
    TRANSFORMER_DECODER,
    NEZHA,
    MPNET,
    ALBERT,
    ERNIE_LAYOUT,
    GPT,
    LLAMA,
    QWEN2,
    MISTRAL,
    GEMMA,
    T5,
]


def register_family(family: Family) -> None:
    """Adds a table, which takes precedence over earlier ones; see docs/a-family-of-your-own.md."""
    _FAMILIES.insert(0, family)


def attention_heads(layer: nn.Layer) -> Axis | None:
    """The heads of a lone attention layer, plain or elastic; None for other layers.

    Also None where all blocks must keep the same heads, because something outside the blocks has a part for each.
    """
    for family in _FAMILIES:
        if not (family.heads.beside or family.heads.shared):
            axis = family.heads.within(layer, family.attention)
            if isinstance(axis, Axis):
                return axis
    return None


def left_out_axes(model: nn.Layer) -> dict[str, int]:
    """The axes of the sub-layers that a plain model has been exported without, each with its size, 0."""
    return {name: 0 for stack in find_stacks(model) for _, name, _ in left_out(stack)}


def find_stacks(model: nn.Layer) -> list[Stack]:
    """Every stack of a known family in a model, in definition order.

    A lone stack is named by the last part of its path (`encoder`), so that configs carry over between
    models that wrap the same encoder; several are named by their whole paths.
    """
    found = []
    for path, layer in model.named_sublayers(include_self=True):
        family = next((family for family in _FAMILIES if family.holds(layer)), None)
        if family is not None:
            found.append((family, path, layer))
    stacks = []
    for family, path, layer in found:
        name = path if len(found) > 1 else path.rpartition(".")[2]
        stacks.append(Stack(family, path, name or "encoder", blocks_at(layer, path, family.layers)))
    return stacks
