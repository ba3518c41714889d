"""PaddleNLP's T5: an encoder and a decoder whose first block has the relative position biases of all blocks.

The biases have a part for each head and are handed on from block to block, and so are the zeros in their place in the
attention to the encoder; so the blocks of a stack keep the same heads, and the first one stays.
"""

from __future__ import annotations

from dataclasses import replace
from functools import reduce

from ofa_slim.supernet.families.family import BlockAxis, Family, attention_heads_axis, ffn_axis
from ofa_slim.supernet.layers.elastic import AttributeSized, register_elastic

_MODULE = "paddlenlp.transformers.t5.modeling"
_SELF, _CROSS = "layer.0.SelfAttention", "layer.1.EncDecAttention"
_PLACES = ("layer.1.DenseReluDense", "layer.2.DenseReluDense")  # in the encoder, in the decoder

register_elastic(
    f"{_MODULE}.T5Attention",
    AttributeSized,
    sizes={"heads": "n_heads", "channels": "inner_dim"},
    qk_projections=("q", "k"),
    head_dim="key_value_proj_dim",
)


def _heads(attention: str, name: str, biases: str | None = None) -> BlockAxis:
    query, key, value, output = (f"{attention}.{one}" for one in "qkvo")
    axis = attention_heads_axis(attention, (query, key, value, output), ("heads", "channels"), name=name)
    return replace(axis, shared=True, beside=() if biases is None else ((biases, "out"),))


def _ffn() -> BlockAxis:
    """Between two layers, or of a gate and what it multiplies, wherever a block has it."""
    rows = [ffn_axis(f"{place}.wi", f"{place}.wo") for place in _PLACES]
    for place in _PLACES:
        slots = ((f"{place}.wi_0", "out"), (f"{place}.wi_1", "out"), (f"{place}.wo", "in"))
        rows.append(BlockAxis("ffn", (f"{place}.wo", "in"), slots))
    return reduce(lambda others, row: row.or_else(others), reversed(rows))


T5 = Family(
    stack=f"{_MODULE}.T5Stack",
    block=f"{_MODULE}.T5Block",
    layers="block.*",
    heads=_heads(_SELF, "heads", "block.0.layer.0.SelfAttention.relative_attention_bias"),
    further=(_heads(_CROSS, "cross_heads"),),
    ffn=_ffn(),
    attention=_SELF,
    stream=tuple(
        (f"{place}.{name}", "out") for place, name in ((_SELF, "o"), (_CROSS, "o"), *((p, "wo") for p in _PLACES))
    ),
    depth=(("block", "depth"),),
    fixed_depth=lambda stack: "its first block has the position biases of all",
)
