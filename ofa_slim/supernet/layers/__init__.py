"""Elastic layers, one small file per kind."""

from ofa_slim.supernet.layers.activation import SuperPReLU
from ofa_slim.supernet.layers.batch_norm import (
    SuperBatchNorm,
    SuperBatchNorm1D,
    SuperBatchNorm2D,
    SuperBatchNorm3D,
    SuperSyncBatchNorm,
)
from ofa_slim.supernet.layers.block import Block, inner_layer
from ofa_slim.supernet.layers.conv import (
    SuperConv1D,
    SuperConv1DTranspose,
    SuperConv2D,
    SuperConv2DTranspose,
    SuperConv3D,
    SuperConv3DTranspose,
    SuperDepthwiseConv2D,
    SuperDepthwiseConv2DTranspose,
    SuperGroupConv2D,
    SuperGroupConv2DTranspose,
)
from ofa_slim.supernet.layers.conv_base import is_depthwise
from ofa_slim.supernet.layers.elastic import ElasticLayer, swap_back, swap_class
from ofa_slim.supernet.layers.embedding import SuperEmbedding
from ofa_slim.supernet.layers.kernels import elastic_kernels, fixed_kernel_reason, has_kernel
from ofa_slim.supernet.layers.left_out import BiasOnly, FirstChannel, bias_only
from ofa_slim.supernet.layers.linear import SuperLinear
from ofa_slim.supernet.layers.norm import (
    SuperGroupNorm,
    SuperInstanceNorm1D,
    SuperInstanceNorm2D,
    SuperInstanceNorm3D,
    SuperLayerNorm,
)
from ofa_slim.supernet.layers.numbers import changed_numbers, cut_numbers, is_number_role, number_role, numbers_in
from ofa_slim.supernet.layers.owner import (
    Owner,
    cut_layer,
    follow,
    is_parameter_role,
    own,
    parameter_roles,
)
from ofa_slim.supernet.layers.separable import SuperSeparableConv2D
from ofa_slim.supernet.layers.stack import (
    SuperLayerList,
    SuperMultiHeadAttention,
    SuperTransformerDecoder,
    SuperTransformerEncoder,
    kept_layers,
)

__all__ = [
    "BiasOnly",
    "Block",
    "ElasticLayer",
    "FirstChannel",
    "Owner",
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
    "SuperLayerList",
    "SuperLayerNorm",
    "SuperLinear",
    "SuperMultiHeadAttention",
    "SuperPReLU",
    "SuperSeparableConv2D",
    "SuperSyncBatchNorm",
    "SuperTransformerDecoder",
    "SuperTransformerEncoder",
    "bias_only",
    "changed_numbers",
    "cut_layer",
    "cut_numbers",
    "elastic_kernels",
    "fixed_kernel_reason",
    "follow",
    "has_kernel",
    "inner_layer",
    "is_depthwise",
    "is_number_role",
    "is_parameter_role",
    "kept_layers",
    "number_role",
    "numbers_in",
    "own",
    "parameter_roles",
    "swap_back",
    "swap_class",
]
