"""PaddleNLP's decoders with grouped-query attention and a gated feed-forward part.

LLaMA in both releases; Qwen2, Mistral and Gemma, which PaddleNLP 3 has.

A step of the heads axis is a head of keys and values with the group of query heads that reads it, so a sub-network has
as many query heads per group as the model. Projections may be fused: queries, keys and values in one layer, head by
head, and the gate beside what it multiplies.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import paddle
from paddle import nn

from ofa_slim.supernet.families.family import BlockAxis, Family
from ofa_slim.supernet.layers.elastic import AttributeSized, ElasticLayer, FollowingLayer, register_elastic
from ofa_slim.supernet.spec import length, part_of, row_of


class RootMeanSquareNorm(FollowingLayer):
    """Mixin of an elastic RMSNorm: normalises as many channels as its input has.

    Attributes:
        offset: what the weight is added to.
    """

    offset = 0.0

    # Not translated: Paddle's translation resolves super() to this class again.
    @paddle.jit.not_to_static
    def forward(self, hidden_states: paddle.Tensor) -> paddle.Tensor:
        """Divides by the root of the mean square of the channels, in float32.

        Args:
            hidden_states: float ``[..., width]``; `width` may be smaller than the full one.

        Returns: the shape of the input, in the type of the weight.
        """
        extent = self.active_sizes.get("out", hidden_states.shape[-1])
        if length(extent) == self.max_sizes["out"]:
            return super().forward(hidden_states)
        wide = hidden_states.astype("float32")
        scale = paddle.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
        weight = part_of(self.weight, ("out",), {"out": extent})
        return (wide * scale).astype(weight.dtype) * (weight + self.offset if self.offset else weight)


class RootMeanSquareNormFromOne(RootMeanSquareNorm):
    """The same where the weight is what is added to 1."""

    offset = 1.0


class LanguageModelHead(ElasticLayer):
    """Mixin of an elastic projection onto the vocabulary, which reads as many channels as its input has.

    Its weight may be the table of the embeddings, ``[vocabulary, width]``.
    """

    @paddle.jit.not_to_static  # as above
    def forward(self, hidden_states: paddle.Tensor, tensor_parallel_output: Any = None) -> paddle.Tensor:
        """Logits, float ``[..., vocabulary]``, of float ``[..., width]``; `width` may be smaller than the full one."""
        extent = self.active_sizes.get("in", hidden_states.shape[-1])
        if length(extent) == self.max_sizes["in"]:
            return super().forward(hidden_states, tensor_parallel_output)
        is_table = row_of(self).roles(self, "weight")[0] == "out"
        return paddle.matmul(hidden_states, self.part("weight", {"in": extent}), transpose_y=is_table)


def _fixed_heads(block: nn.Layer) -> str | None:
    """Why the heads of a block are fixed: something outside it has a part for each, or other processes have some."""
    attention = block.self_attn
    if getattr(attention.config, "alibi", False):
        return "ALiBi has a slope for each head of the original model"
    if getattr(attention, "kv_indices", None) is not None or getattr(attention, "sequence_parallel", False):
        return "its heads are spread over several processes"
    if attention.num_heads % attention.num_key_value_heads:
        return (
            f"its {attention.num_heads} query heads are not the same number for each of "
            f"{attention.num_key_value_heads} heads of keys and values"
        )
    return None


def _heads(*projections: str) -> BlockAxis:
    """The axis of a block whose attention has these input projections."""
    return BlockAxis(
        "heads",
        counted=("self_attn", "groups"),
        slots=(
            *((f"self_attn.{name}", "out") for name in projections),
            ("self_attn.o_proj", "in"),
            ("self_attn", "groups"),
            ("self_attn", "heads"),
        ),
        whole=True,
        fixed=_fixed_heads,
    )


def _ffn() -> BlockAxis:
    apart = BlockAxis(
        "ffn",
        counted=("mlp.down_proj", "in"),
        slots=(("mlp.gate_proj", "out"), ("mlp.up_proj", "out"), ("mlp.down_proj", "in")),
    )
    fused = BlockAxis(
        "ffn",
        counted=("mlp.down_proj", "in"),
        slots=(("mlp.gate_up_fused_proj", "out"), ("mlp.down_proj", "in")),
        doubled=("mlp.gate_up_fused_proj", "out"),
    )
    return apart.or_else(fused)


def decoder_family(
    module: str,
    prefix: str,
    norm: type[RootMeanSquareNorm] = RootMeanSquareNorm,
    norm_knows_width: bool = True,
    head_is_table: Callable[[nn.Layer], bool] = lambda head: getattr(head, "transpose_y", False),
) -> Family:
    """The family of a decoder of this layout.

    Args:
        module: of its classes.
        prefix: of their names.
        norm: mixin of its RMSNorm.
        norm_knows_width: whether the norm has its width as an attribute.
        head_is_table: whether the weight of a projection onto the vocabulary is ``[vocabulary, width]``.
    """
    module = f"paddlenlp.transformers.{module}.modeling"
    register_elastic(
        f"{module}.{prefix}Attention",
        AttributeSized,
        sizes={"groups": "num_key_value_heads", "heads": "num_heads"},
        qk_projections=("o_proj", "o_proj"),  # it reads each place's query and is read at each place's key
    )
    register_elastic(
        f"{module}.{prefix}RMSNorm",
        norm,
        params={"weight": ("out",)},
        sizes={"out": "hidden_size"} if norm_knows_width else {},
        width="out",
        follows=True,
        macs={"out": 2},
        neutral={"weight": 1.0},
    )
    register_elastic(
        f"{module}.{prefix}LMHead",
        LanguageModelHead,
        params={"weight": ("in", "out")},
        role_override=lambda head, name, roles: ("out", "in") if head_is_table(head) else roles,
        macs={"weight": 1},
    )
    return Family(
        stack=f"{module}.{prefix}Model",
        block=f"{module}.{prefix}DecoderLayer",
        layers="layers.*",
        heads=_heads("q_proj", "k_proj", "v_proj").or_else(_heads("qkv_proj")),
        ffn=_ffn(),
        attention="self_attn",
        stream=(("self_attn.o_proj", "out"), ("mlp.down_proj", "out")),
        depth=(("layers", "depth"),),
    )


LLAMA = decoder_family("llama", "Llama")
QWEN2 = decoder_family("qwen2", "Qwen2")
MISTRAL = decoder_family("mistral", "Mistral", norm_knows_width=False)
GEMMA = decoder_family(
    "gemma", "Gemma", RootMeanSquareNormFromOne, head_is_table=lambda head: bool(head.config.tie_word_embeddings)
)
