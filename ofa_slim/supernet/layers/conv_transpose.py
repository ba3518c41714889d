"""Elastic transposed convolutions."""

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
from ofa_slim.supernet.spec import Extent, LayerSpec, Sizes, leading_of_each, register


class ElasticConvTranspose(ElasticConv):
    """Mixin of the transposed convolutions.

    Roles of the weight ``[in, out, kernel, ...]``: ``"in"`` counts all inputs, ``"out"`` all outputs. With
    several groups the second dimension is ``"group_out"``, the outputs of one group, and only the bias has
    the role ``"out"``.
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
        output_padding: Sides = 0,
        dilation: Sides = 1,
        groups: int = 1,
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
            output_padding=output_padding,
            dilation=dilation,
            groups=groups,
            weight_attr=weight_attr,
            bias_attr=bias_attr,
            data_format=data_format or self.layout,
        )

    def forward(
        self,
        x: paddle.Tensor,
        output_size: Sides | None = None,
        kernel_size: int | None = None,
        expand_ratio: float | None = None,
        channel: int | None = None,
    ) -> paddle.Tensor:
        """Applies the layer at a width and a kernel size.

        Args:
            x: float ``[batch, in, *spatial]``, or channels last as `data_format` says; `in` may be smaller
                than `in_channels`.
            output_size: the spatial size of the output, as in the Paddle layer.
            kernel_size: the size of the kernel, for this call only.
            expand_ratio: share of the output width, for this call only.
            channel: the output width in channels, for this call only; goes before `expand_ratio`. Rounded
                down to a multiple of the groups; a depthwise convolution follows its input instead.

        Returns: float ``[batch, out, *spatial]``, the spatial size that of the full kernel.

        Raises: IllegalSubnetError for a width or a kernel size that the layer cannot have.
        """
        output_padding = self.output_padding if output_size is None else 0
        return self.convolve(
            x, kernel_size, expand_ratio, channel, output_size=output_size, output_padding=output_padding
        )

    def inputs_at(self, count: int, groups: int) -> dict[str, Extent]:
        """The extents of the input roles for `count` channels of each group."""
        return {"in": leading_of_each(count, self._in_channels // self._groups, groups)}

    def outputs_at(self, count: int, groups: int) -> dict[str, Extent]:
        """The extents of the output roles for `count` channels of each group."""
        return {**super().outputs_at(count, groups), "group_out": count}


class SuperConv1DTranspose(ElasticConvTranspose, nn.Conv1DTranspose):
    """`paddle.nn.Conv1DTranspose` with an elastic width and kernel size; see `SuperConv2DTranspose`."""

    function, layout = F.conv1d_transpose, "NCL"


class SuperConv2DTranspose(ElasticConvTranspose, nn.Conv2DTranspose):
    """`paddle.nn.Conv2DTranspose` that computes with leading channels and the centre of its kernel.

    Args:
        in_channels: full input width.
        out_channels: full output width; grown to the largest `channel` among the choices.
        kernel_size: full size of the kernel; grown to the largest `kernel_size` among the choices, and the padding
            with it.
        candidate_config: choices for sampling, e.g. ``{"kernel_size": (3, 5), "expand_ratio": (0.5, 1.0)}``.
        transform_kernel: whether smaller kernels are made from larger ones by learned matrices.
        stride, padding, output_padding, dilation, groups, weight_attr, bias_attr, data_format: as in
            `paddle.nn.Conv2DTranspose`. What a smaller kernel does not cover is taken off the padding.

    Source: Cai et al. 2020, arXiv:1908.09791.
    """

    function, layout = F.conv2d_transpose, "NCHW"


class SuperConv3DTranspose(ElasticConvTranspose, nn.Conv3DTranspose):
    """`paddle.nn.Conv3DTranspose` with an elastic width and kernel size; see `SuperConv2DTranspose`."""

    function, layout = F.conv3d_transpose, "NCDHW"


class SuperGroupConv2DTranspose(SuperConv2DTranspose):
    """`SuperConv2DTranspose` by its published name for several groups."""


class SuperDepthwiseConv2DTranspose(DepthwiseOnly, SuperConv2DTranspose):
    """`SuperConv2DTranspose` by its published name for one group per input channel."""


def _own_roles(conv: nn.Layer, name: str, roles: tuple[str, ...]) -> tuple[str, ...]:
    first, *others = role_override(conv, name, roles)
    return (first, "group_out", *others[1:]) if name == "weight" and conv._groups > 1 else (first, *others)


def _cut(conv: nn.Layer, sizes: Sizes) -> Callable[[], None]:
    inputs, outputs = conv.weight.shape[:2]
    groups = inputs if is_depthwise(conv) else conv._groups
    return cut_conv(conv, sizes, inputs, outputs * groups, groups)


def _row(plain: type[nn.Layer], elastic: type[nn.Layer], sides: int, *variants: type[nn.Layer]) -> LayerSpec:
    return LayerSpec(
        plain,
        elastic,
        params={"weight": ("in", "out", *["kernel"] * sides), "bias": ("out",)},
        width="out",
        measure=lambda conv: {"out": conv._out_channels},
        cut=_cut,
        role_override=_own_roles,
        variants=variants,
        macs={"weight": 1, "bias": 1},
    )


register(_row(nn.Conv1DTranspose, SuperConv1DTranspose, 1))
register(_row(nn.Conv2DTranspose, SuperConv2DTranspose, 2, SuperGroupConv2DTranspose, SuperDepthwiseConv2DTranspose))
register(_row(nn.Conv3DTranspose, SuperConv3DTranspose, 3))
