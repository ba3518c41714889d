"""Models that hold `paddle.nn.TransformerEncoder`: BERT, ERNIE, RoBERTa and hand-written ones."""

from paddle import nn

from ofa_slim.supernet.families.base import BlockAxis, Family

TRANSFORMER_ENCODER = Family(
    stack_class=nn.TransformerEncoder,
    block_class=nn.TransformerEncoderLayer,
    layers="layers",
    axes=(
        BlockAxis(
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
        BlockAxis("ffn", counted=("linear1", "out"), slots=(("linear1", "out"), ("linear2", "in"))),
    ),
    attention="self_attn",
    intermediate="linear1",
    output="linear2",
)
