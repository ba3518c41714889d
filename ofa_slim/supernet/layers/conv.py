"""Elastic convolutions."""

from __future__ import annotations

from collections.abc import Callable

import paddle
from paddle import ParamAttr, nn
from paddle.nn import functional as F

from ofa_slim.supernet.layers.base import CandidateConfig
from ofa_slim.supernet.layers.conv_base import (
    DepthwiseOnly,
    ElasticConv,
    Padding,
    Sides,
    cut_conv,
    is_depthwise,
    role_override,
)
from ofa_slim.supernet.spec import LayerSpec, Sizes, register


class ElasticForwardConv(ElasticConv):
    """Mixin of the convolutions that are not transposed.

    Roles of the weight ``[out, in, kernel, ...]``: ``"in"`` counts the inputs of one group, ``"out"`` all
    outputs. The sides of a kernel that is not square have a role each, and are never cut.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sides,
        candidate_config: CandidateConfig | None = None,
        transform_kernel: bool = False,
        stride: Sides = 1,
        padding: Padding = 0,
        dilation: Sides = 1,
        groups: int = 1,
        padding_mode: str = "zeros",
        weight_attr: ParamAttr | None = None,
        bias_attr: ParamAttr | bool | None = None,
        data_format: str | None = None,
    ) -> None:
        self.build(
            candidate_config,
            transform_kernel,
            in_channels=in_channels,
            out_channels=out_channels,
            kernel_size=kernel_size,
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=groups,
            padding_mode=padding_mode,
            weight_attr=weight_attr,
            bias_attr=bias_attr,
            data_format=data_format or self.layout,
        )

    def forward(
        self,
        x: paddle.Tensor,
        kernel_size: int | None = None,
        expand_ratio: float | None = None,
        channel: int | None = None,
    ) -> paddle.Tensor:
        """Applies the layer at a width and a kernel size.

        Args:
            x: float ``[batch, in, *spatial]``, or channels last as `data_format` says; `in` may be smaller
                than `in_channels`.
            kernel_size: the size of the kernel, for this call only.
            expand_ratio: share of the output width, for this call only.
            channel: the output width in channels, for this call only; goes before `expand_ratio`. Rounded
                down to a multiple of the groups; a depthwise convolution follows its input instead.

        Returns: float ``[batch, out, *spatial]``, the spatial size that of the full kernel.

        Raises: IllegalSubnetError for a width or a kernel size that the layer cannot have.
        """
        return self.convolve(x, kernel_size, expand_ratio, channel)


class SuperConv1D(ElasticForwardConv, nn.Conv1D):
    """`paddle.nn.Conv1D` with an elastic width and kernel size; see `SuperConv2D`."""

    function, layout = F.conv1d, "NCL"


class SuperConv2D(ElasticForwardConv, nn.Conv2D):
    """`paddle.nn.Conv2D` that computes with leading channels and the centre of its kernel.

    Args:
        in_channels: full input width.
        out_channels: full output width; grown to the largest `channel` among the choices.
        kernel_size: full size of the kernel; grown to the largest `kernel_size` among the choices, and the padding
            with it.
        candidate_config: choices for sampling, e.g. ``{"kernel_size": (3, 5), "expand_ratio": (0.5, 1.0)}``.
        transform_kernel: whether smaller kernels are made from larger ones by learned matrices.
        stride, padding, dilation, groups, padding_mode, weight_attr, bias_attr, data_format: as in
            `paddle.nn.Conv2D`. What a smaller kernel does not cover is taken off the padding.

    Source: Cai et al. 2020, arXiv:1908.09791.
    """

    function, layout = F.conv2d, "NCHW"


class SuperConv3D(ElasticForwardConv, nn.Conv3D):
    """`paddle.nn.Conv3D` with an elastic width and kernel size; see `SuperConv2D`."""

    function, layout = F.conv3d, "NCDHW"


class SuperGroupConv2D(SuperConv2D):
    """`SuperConv2D` by its published name for several groups."""


class SuperDepthwiseConv2D(DepthwiseOnly, SuperConv2D):
    """`SuperConv2D` by its published name for one group per input channel."""


def _cut(conv: nn.Layer, sizes: Sizes) -> Callable[[], None]:
    outputs, inputs = conv.weight.shape[:2]
    groups = outputs // (conv._out_channels // conv._groups) if is_depthwise(conv) else conv._groups
    return cut_conv(conv, sizes, inputs * groups, outputs, groups)


def _row(plain: type[nn.Layer], elastic: type[nn.Layer], sides: int, *variants: type[nn.Layer]) -> LayerSpec:
    return LayerSpec(
        plain,
        elastic,
        params={"weight": ("out", "in", *["kernel"] * sides), "bias": ("out",)},
        width="out",
        cut=_cut,
        role_override=role_override,
        variants=variants,
        macs={"weight": 1, "bias": 1},
    )


register(_row(nn.Conv1D, SuperConv1D, 1))
register(_row(nn.Conv2D, SuperConv2D, 2, SuperGroupConv2D, SuperDepthwiseConv2D))
register(_row(nn.Conv3D, SuperConv3D, 3))
