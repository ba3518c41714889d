"""ERNIE-Layout and UIE-X: an encoder of text with its positions on a page.

Relative position biases, in the text and on the page, have a column for each head; all blocks use the same ones.
"""

from __future__ import annotations

from typing import Any

import paddle
from paddle import nn

from ofa_slim.supernet.families.family import Family, attention_heads_axis, ffn_axis
from ofa_slim.supernet.layers.elastic import AttributeSized, ElasticLayer, register_elastic
from ofa_slim.supernet.spec import part_of

_MODULE = "paddlenlp.transformers.ernie_layout.modeling"
_TABLES = ("rel_pos_bias", "rel_pos_x_bias", "rel_pos_y_bias")
_BIAS = ("rows", "heads", "queries", "keys")


def _biased(encoder: nn.Layer) -> bool:
    return any(getattr(encoder, name, None) is not None for name in _TABLES)


class RelativePositionBiases(ElasticLayer):
    """Mixin of the encoder: computes the relative position biases of the active heads only."""

    # Not translated: Paddle's translation resolves super() to this class again.
    @paddle.jit.not_to_static
    def _cal_1d_pos_emb(self, *args: Any) -> paddle.Tensor:
        biases = super()._cal_1d_pos_emb(*args)  # type: ignore[misc]  # a method of the encoder
        return part_of(biases, _BIAS, self.active_sizes)

    @paddle.jit.not_to_static
    def _cal_2d_pos_emb(self, *args: Any) -> paddle.Tensor:
        biases = super()._cal_2d_pos_emb(*args)  # type: ignore[misc]  # as above
        return part_of(biases, _BIAS, self.active_sizes)


register_elastic(
    f"{_MODULE}.ErnieLayoutEncoder",
    RelativePositionBiases,
    params={name: ("distances", "heads") for name in _TABLES},
    # Without biases the config tells the number of heads; after export only the biases do.
    measure=lambda encoder: {} if _biased(encoder) else {"heads": encoder.config["num_attention_heads"]},
)
register_elastic(
    f"{_MODULE}.ErnieLayoutSelfAttention",
    AttributeSized,
    sizes={"heads": "num_attention_heads", "channels": "all_head_size"},
    qk_projections=("query", "key"),
    head_dim="attention_head_size",
)

ERNIE_LAYOUT = Family(
    stack=f"{_MODULE}.ErnieLayoutEncoder",
    block=f"{_MODULE}.ErnieLayoutLayer",
    layers="layer.*",
    heads=attention_heads_axis(
        "attention.self",
        ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"),
        ("heads", "channels"),
        beside=(("", "heads"),),
    ),
    ffn=ffn_axis("intermediate.dense", "output.dense"),
    attention="attention",
    stream=(("attention.output.dense", "out"), ("output.dense", "out")),
    depth=(("layer", "depth"),),
)
