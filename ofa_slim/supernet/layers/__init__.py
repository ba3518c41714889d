"""Elastic layers, one small file per kind."""

from ofa_slim.supernet.layers.base import ElasticLayer, channels_of, swap_back, swap_class
from ofa_slim.supernet.layers.embedding import SuperEmbedding
from ofa_slim.supernet.layers.linear import SuperLinear
from ofa_slim.supernet.layers.norm import SuperLayerNorm
from ofa_slim.supernet.layers.stack import (
    SuperLayerList,
    SuperMultiHeadAttention,
    SuperTransformerEncoder,
    kept_layers,
)

__all__ = [
    "ElasticLayer",
    "SuperEmbedding",
    "SuperLayerList",
    "SuperLayerNorm",
    "SuperLinear",
    "SuperMultiHeadAttention",
    "SuperTransformerEncoder",
    "channels_of",
    "kept_layers",
    "swap_back",
    "swap_class",
]
