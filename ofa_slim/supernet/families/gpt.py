"""PaddleNLP's GPT, a decoder with causal attention, whose blocks have the names of Paddle's encoder."""

from dataclasses import replace

from ofa_slim.supernet.families.transformer_encoder import TRANSFORMER_ENCODER
from ofa_slim.supernet.layers.elastic import AttributeSized, register_elastic
from ofa_slim.supernet.layers.norm import SuperLayerNorm, norm_row

_MODULE = "paddlenlp.transformers.gpt.modeling"

register_elastic(
    f"{_MODULE}.MultiHeadAttention",
    AttributeSized,
    sizes={"heads": "num_attention_heads"},
    qk_projections=("q_proj", "k_proj"),
)
register_elastic(f"{_MODULE}.GPTLayerNorm", SuperLayerNorm, **norm_row("_normalized_shape"))

# With a fused layer for queries, keys and values there is no q_proj, and the heads are fixed.
GPT = replace(
    TRANSFORMER_ENCODER,
    stack=f"{_MODULE}.TransformerDecoder",
    block=f"{_MODULE}.GPTDecoderLayer",
    depth=(("layers", "depth"),),
)
