"""Supernets: the table of layers, the search space, and converting a model."""

from ofa_slim.supernet.axis import Axis, Bypass, Slot
from ofa_slim.supernet.convert import Convert, supernet
from ofa_slim.supernet.families import BlockAxis, Family, register_family
from ofa_slim.supernet.handle import Supernet
from ofa_slim.supernet.layers import (
    Block,
    SuperBatchNorm,
    SuperBatchNorm1D,
    SuperBatchNorm2D,
    SuperBatchNorm3D,
    SuperConv1D,
    SuperConv1DTranspose,
    SuperConv2D,
    SuperConv2DTranspose,
    SuperConv3D,
    SuperConv3DTranspose,
    SuperDepthwiseConv2D,
    SuperDepthwiseConv2DTranspose,
    SuperEmbedding,
    SuperGroupConv2D,
    SuperGroupConv2DTranspose,
    SuperGroupNorm,
    SuperInstanceNorm1D,
    SuperInstanceNorm2D,
    SuperInstanceNorm3D,
    SuperLayerNorm,
    SuperLinear,
    SuperPReLU,
    SuperSeparableConv2D,
    SuperSyncBatchNorm,
)
from ofa_slim.supernet.layers.elastic import AttributeSized, register_elastic
from ofa_slim.supernet.load_weights import set_state_dict
from ofa_slim.supernet.space import SearchSpace
from ofa_slim.supernet.subnet_config import SubnetConfig

__all__ = [
    "AttributeSized",
    "Axis",
    "Block",
    "BlockAxis",
    "Bypass",
    "Convert",
    "Family",
    "SearchSpace",
    "Slot",
    "SubnetConfig",
    "SuperBatchNorm",
    "SuperBatchNorm1D",
    "SuperBatchNorm2D",
    "SuperBatchNorm3D",
    "SuperConv1D",
    "SuperConv1DTranspose",
    "SuperConv2D",
    "SuperConv2DTranspose",
    "SuperConv3D",
    "SuperConv3DTranspose",
    "SuperDepthwiseConv2D",
    "SuperDepthwiseConv2DTranspose",
    "SuperEmbedding",
    "SuperGroupConv2D",
    "SuperGroupConv2DTranspose",
    "SuperGroupNorm",
    "SuperInstanceNorm1D",
    "SuperInstanceNorm2D",
    "SuperInstanceNorm3D",
    "SuperLayerNorm",
    "SuperLinear",
    "SuperPReLU",
    "SuperSeparableConv2D",
    "SuperSyncBatchNorm",
    "Supernet",
    "register_elastic",
    "register_family",
    "set_state_dict",
    "supernet",
]
