"""PaddleNLP's GPT, a decoder: attention looks back only."""

from ofa_slim.supernet.families.base import BlockAxis, Family
from ofa_slim.supernet.layers.base import AttributeSized, register_elastic
from ofa_slim.supernet.layers.norm import SuperLayerNorm

_MODULE = "paddlenlp.transformers.gpt.modeling"

register_elastic(
    f"{_MODULE}.MultiHeadAttention",
    AttributeSized,
    sizes={"heads": "num_attention_heads"},
    scores=("q_proj", "k_proj"),
)
register_elastic(
    f"{_MODULE}.GPTLayerNorm",
    SuperLayerNorm,
    params={"weight": ("out",), "bias": ("out",)},
    sizes={"out": "_normalized_shape"},
    width="out",
    follows=True,
    work={"out": 2},
)

GPT = Family(
    stack=f"{_MODULE}.TransformerDecoder",
    block=f"{_MODULE}.GPTDecoderLayer",
    layers="layers.*",
    # Where queries, keys and values come out of one fused layer there is no q_proj, and the heads are fixed.
    heads=BlockAxis(
        "heads",
        counted=("self_attn", "heads"),
        slots=(
            ("self_attn.q_proj", "out"),
            ("self_attn.k_proj", "out"),
            ("self_attn.v_proj", "out"),
            ("self_attn.out_proj", "in"),
            ("self_attn", "heads"),
        ),
        whole=True,
    ),
    ffn=BlockAxis("ffn", counted=("linear1", "out"), slots=(("linear1", "out"), ("linear2", "in"))),
    attention="self_attn",
    stream=(("self_attn.out_proj", "out"), ("linear2", "out")),
    depth=(("layers", "depth"),),
)
