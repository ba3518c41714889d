"""Models that hold `paddle.nn.TransformerEncoder`, and hand-written ones.

Of PaddleNLP: BERT, ERNIE (1, 2, 3.0, Gram, M), UIE, RoBERTa, ELECTRA, TinyBERT, PP-MiniLM, SKEP, DistilBERT, RoFormer.
"""

from paddle import nn

from ofa_slim.supernet.families.base import BlockAxis, Family
from ofa_slim.supernet.layers.base import AttributeSized, register_elastic

TRANSFORMER_ENCODER = Family(
    stack=nn.TransformerEncoder,
    block=nn.TransformerEncoderLayer,
    layers="layers.*",
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
    depth=(("layers", "depth"), ("", "depth")),
)

# RoFormer's attention turns queries and keys by their positions, each head by itself.
register_elastic(
    "paddlenlp.transformers.roformer.modeling.MultiHeadAttentionWithRotary",
    AttributeSized,
    sizes={"heads": "num_heads"},
    qk_projections=("q_proj", "k_proj"),
)
