"""Models with a `paddle.nn.TransformerDecoder`, PaddleNLP's BART and others: blocks that also attend to an encoder."""

from paddle import nn

from ofa_slim.supernet.families.family import Family, attention_heads_axis, ffn_axis

# An attention cannot be left out: with a cache it returns that too.
TRANSFORMER_DECODER = Family(
    stack=nn.TransformerDecoder,
    block=nn.TransformerDecoderLayer,
    layers="layers.*",
    heads=attention_heads_axis(
        "self_attn", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj")
    ),
    further=(
        attention_heads_axis(
            "cross_attn",
            ("cross_attn.q_proj", "cross_attn.k_proj", "cross_attn.v_proj", "cross_attn.out_proj"),
            name="cross_heads",
        ),
    ),
    ffn=ffn_axis("linear1", "linear2"),
    attention="self_attn",
    stream=(("self_attn.out_proj", "out"), ("cross_attn.out_proj", "out"), ("linear2", "out")),
    depth=(("layers", "depth"), ("", "depth")),
)
