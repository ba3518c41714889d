"""PaddleNLP's encoders of one layout: NeZha, MPNet and ALBERT.

A block is an attention with its projections and norm inside, then `ffn` and `ffn_output`. NeZha adds positions in each
head; MPNet has one relative position bias per head for all blocks, so all keep the same heads; ALBERT calls one block
repeatedly.
"""

from __future__ import annotations

from paddle import nn

from ofa_slim.supernet.families.family import Family, Place, attention_heads_axis, ffn_axis
from ofa_slim.supernet.layers.elastic import AttributeSized, register_elastic

_MODULES = "paddlenlp.transformers.{}.modeling.{}"


def _family(
    model: str,
    names: tuple[str, str, str],
    layers: str,
    projections: tuple[str, str, str, str],
    depth: tuple[Place, ...],
    beside: tuple[Place, ...] = (),
) -> Family:
    """A family of this layout, from PaddleNLP's folder `model`.

    `names` are the classes of the stack, the block and the attention; `projections` the names of the query, key, value
    and output projections; `beside` is that of the heads.
    """
    stack, block, attention = (_MODULES.format(model, name) for name in names)
    query, key, value, output = (f"attention.{name}" for name in projections)
    register_elastic(
        attention,
        AttributeSized,
        sizes={"heads": "num_attention_heads", "channels": "all_head_size"},
        qk_projections=(projections[0], projections[1]),
        head_dim="attention_head_size",
    )
    return Family(
        stack=stack,
        block=block,
        layers=layers,
        heads=attention_heads_axis("attention", (query, key, value, output), ("heads", "channels"), beside),
        ffn=ffn_axis("ffn", "ffn_output"),
        attention="attention",
        stream=((output, "out"), ("ffn_output", "out")),
        depth=depth,
        fixed_depth=_groups if model == "albert" else lambda stack: None,
    )


def _groups(stack: nn.Layer) -> str | None:
    """Why an ALBERT's depth is fixed: with several blocks, each is called for a part of the depth."""
    groups = list(stack.albert_layer_groups)
    blocks = sum(len(list(group.albert_layers)) for group in groups)
    return None if blocks == 1 else f"its {blocks} different blocks take turns"


NEZHA = _family(
    "nezha",
    ("NeZhaEncoder", "NeZhaLayer", "NeZhaAttention"),
    "layer.*",
    ("query", "key", "value", "dense"),
    depth=(("layer", "depth"),),
)
MPNET = _family(
    "mpnet",
    ("MPNetEncoder", "MPNetLayer", "MPNetAttention"),
    "layer.*",
    ("q", "k", "v", "o"),
    depth=(("layer", "depth"),),
    beside=(("relative_attention_bias", "out"),),
)
ALBERT = _family(
    "albert",
    ("AlbertTransformer", "AlbertLayer", "AlbertAttention"),
    "albert_layer_groups.*.albert_layers.*",
    ("query", "key", "value", "dense"),
    depth=(("", "depth"),),
)
register_elastic(_MODULES.format("albert", "AlbertTransformer"), AttributeSized, sizes={"depth": "num_hidden_layers"})
