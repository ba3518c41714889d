"""Models with a `paddle.nn.TransformerEncoder`, PaddleNLP's and others.

PaddleNLP's: BERT, ERNIE (1, 2, 3.0, Gram, M), UIE, RoBERTa, ELECTRA, TinyBERT, PP-MiniLM, SKEP, DistilBERT, RoFormer.
"""

from paddle import nn

from ofa_slim.supernet.families.family import Family, attention_heads_axis, ffn_axis
from ofa_slim.supernet.layers.elastic import AttributeSized, register_elastic

TRANSFORMER_ENCODER = Family(
    stack=nn.TransformerEncoder,
    block=nn.TransformerEncoderLayer,
    layers="layers.*",
    heads=attention_heads_axis(
        "self_attn",
        ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj"),
        optional=True,
    ),
    ffn=ffn_axis("linear1", "linear2"),
    attention="self_attn",
    stream=(("self_attn.out_proj", "out"), ("linear2", "out")),
    depth=(("layers", "depth"), ("", "depth")),
)

# RoFormer's attention rotates queries and keys by their positions, in each head.
register_elastic(
    "paddlenlp.transformers.roformer.modeling.MultiHeadAttentionWithRotary",
    AttributeSized,
    sizes={"heads": "num_heads"},
    qk_projections=("q_proj", "k_proj"),
)
