"""Supernets: the table of layers, the search space, and converting a model."""

from ofa_slim.supernet.convert import Convert, set_state_dict, supernet
from ofa_slim.supernet.layers import SuperEmbedding, SuperLayerNorm, SuperLinear
from ofa_slim.supernet.space import Axis, SearchSpace, Slot, SubnetConfig

__all__ = [
    "Axis",
    "Convert",
    "SearchSpace",
    "Slot",
    "SubnetConfig",
    "SuperEmbedding",
    "SuperLayerNorm",
    "SuperLinear",
    "set_state_dict",
    "supernet",
]
