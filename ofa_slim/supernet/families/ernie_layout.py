"""ERNIE-Layout and UIE-X: an encoder of text in its places on a page.

Biases for the distance of two tokens, in the text and on the page, have a column for each head and serve all blocks.
"""

from __future__ import annotations

from typing import Any

import paddle
from paddle import nn

from ofa_slim.supernet.families.base import BlockAxis, Family
from ofa_slim.supernet.layers.base import AttributeSized, ElasticLayer, register_elastic
from ofa_slim.supernet.spec import part_of

_MODULE = "paddlenlp.transformers.ernie_layout.modeling"
_TABLES = ("rel_pos_bias", "rel_pos_x_bias", "rel_pos_y_bias")
_BIAS = ("rows", "heads", "queries", "keys")


def _biased(encoder: nn.Layer) -> bool:
    return any(getattr(encoder, name, None) is not None for name in _TABLES)


class PlaceBiases(ElasticLayer):
    """Mixin of the encoder: of the biases for places, those of the active heads."""

    # Not translated: Paddle's translation finds this class again behind super().
    @paddle.jit.not_to_static
    def _cal_1d_pos_emb(self, *args: Any) -> paddle.Tensor:
        biases = super()._cal_1d_pos_emb(*args)  # type: ignore[misc]  # of the encoder that this is mixed into
        return part_of(biases, _BIAS, self.active_sizes)

    @paddle.jit.not_to_static
    def _cal_2d_pos_emb(self, *args: Any) -> paddle.Tensor:
        biases = super()._cal_2d_pos_emb(*args)  # type: ignore[misc]  # as above
        return part_of(biases, _BIAS, self.active_sizes)


register_elastic(
    f"{_MODULE}.ErnieLayoutEncoder",
    PlaceBiases,
    params={name: ("distances", "heads") for name in _TABLES},
    # Of an encoder without biases only its config knows; of an exported one only the biases do.
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
    heads=BlockAxis(
        "heads",
        counted=("attention.self", "heads"),
        slots=(
            ("attention.self.query", "out"),
            ("attention.self.key", "out"),
            ("attention.self.value", "out"),
            ("attention.output.dense", "in"),
            ("attention.self", "heads"),
            ("attention.self", "channels"),
        ),
        whole=True,
        beside=(("", "heads"),),
    ),
    ffn=BlockAxis(
        "ffn",
        counted=("intermediate.dense", "out"),
        slots=(("intermediate.dense", "out"), ("output.dense", "in")),
    ),
    attention="attention",
    stream=(("attention.output.dense", "out"), ("output.dense", "out")),
    depth=(("layer", "depth"),),
)
