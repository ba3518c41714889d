"""Elastic convolutions, transposed or not."""

from __future__ import annotations

from collections.abc import Callable

import paddle
from paddle import nn
from paddle.nn import functional as F

from ofa_slim.supernet.layers.conv_base import ElasticConv, Sides, cut_conv, is_depthwise
from ofa_slim.supernet.layers.kernels import is_square
from ofa_slim.supernet.spec import Extent, LayerSpec, Sizes, leading_of_each, register


class ElasticForwardConv(ElasticConv):
    """Mixin of the convolutions that are not transposed.

    Roles of the weight ``[out, in, kernel, ...]``: ``"in"`` counts the inputs of one group, ``"out"`` all
    outputs. The sides of a kernel that is not square have a role each, and are never cut.
    """

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
            channel: the output width in channels, for this call only; takes precedence over `expand_ratio`.
                Rounded down to a multiple of the groups; a depthwise convolution follows its input instead.

        Returns: float ``[batch, out, *spatial]``, the spatial size that of the full kernel.

        Raises: IllegalSubnetError for a width or a kernel size that the layer cannot have.
        """
        return self.convolve(x, kernel_size, expand_ratio, channel)


class ElasticConvTranspose(ElasticConv):
    """Mixin of the transposed convolutions.

    Roles of the weight ``[in, out, kernel, ...]``: ``"in"`` counts all inputs, ``"out"`` all outputs. With
    several groups the second dimension is ``"group_out"``, the outputs of one group, and only the bias has
    the role ``"out"``.
    """

    def forward(
        self,
        x: paddle.Tensor,
        output_size: Sides | None = None,
        kernel_size: int | None = None,
        expand_ratio: float | None = None,
        channel: int | None = None,
    ) -> paddle.Tensor:
        """Applies the layer at a width and a kernel size; see `ElasticForwardConv.forward`.

        Args:
            x: float ``[batch, in, *spatial]``, or channels last as `data_format` says.
            output_size: the spatial size of the output, as in the Paddle layer.
            kernel_size: as in `SuperConv2D`, for this call only.
            expand_ratio: the same.
            channel: the same.

        Returns: float ``[batch, out, *spatial]``.
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


class SuperConv1D(ElasticForwardConv, nn.Conv1D):
    """`paddle.nn.Conv1D` with an elastic width and kernel size; see `SuperConv2D`."""

    function = F.conv1d


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

    function = F.conv2d


class SuperConv3D(ElasticForwardConv, nn.Conv3D):
    """`paddle.nn.Conv3D` with an elastic width and kernel size; see `SuperConv2D`."""

    function = F.conv3d


class SuperGroupConv2D(SuperConv2D):
    """`SuperConv2D` by its published name for several groups."""


class SuperDepthwiseConv2D(SuperConv2D):
    """`SuperConv2D` by its published name for one group per input channel, which is the default here."""

    depthwise_only = True


class SuperConv1DTranspose(ElasticConvTranspose, nn.Conv1DTranspose):
    """`paddle.nn.Conv1DTranspose` with an elastic width and kernel size; see `SuperConv2DTranspose`."""

    function = F.conv1d_transpose


class SuperConv2DTranspose(ElasticConvTranspose, nn.Conv2DTranspose):
    """`paddle.nn.Conv2DTranspose` that computes with leading channels and the centre of its kernel.

    Args:
        in_channels, out_channels, kernel_size, candidate_config, transform_kernel: as in `SuperConv2D`.
        stride, padding, output_padding, dilation, groups, weight_attr, bias_attr, data_format: as in
            `paddle.nn.Conv2DTranspose`. What a smaller kernel does not cover is taken off the padding.
    """

    function = F.conv2d_transpose


class SuperConv3DTranspose(ElasticConvTranspose, nn.Conv3DTranspose):
    """`paddle.nn.Conv3DTranspose` with an elastic width and kernel size; see `SuperConv2DTranspose`."""

    function = F.conv3d_transpose


class SuperGroupConv2DTranspose(SuperConv2DTranspose):
    """`SuperConv2DTranspose` by its published name for several groups."""


class SuperDepthwiseConv2DTranspose(SuperConv2DTranspose):
    """`SuperConv2DTranspose` by its published name for one group per input channel, which is the default here."""

    depthwise_only = True


def _own_roles(conv: nn.Layer, name: str, roles: tuple[str, ...]) -> tuple[str, ...]:
    """The roles of a parameter of this very convolution."""
    if name != "weight":
        return roles
    first, second, *sides = roles
    if not is_square(conv):
        sides = [f"kernel{side}" for side in range(len(sides))]
    if first == "in" and conv._groups > 1:
        second = "group_out"
    return (first, second, *sides)


def _cut(conv: nn.Layer, sizes: Sizes) -> Callable[[], None]:
    outputs, inputs = conv.weight.shape[:2]
    groups = outputs // (conv._out_channels // conv._groups) if is_depthwise(conv) else conv._groups
    return cut_conv(conv, sizes, inputs * groups, outputs, groups)


def _cut_transposed(conv: nn.Layer, sizes: Sizes) -> Callable[[], None]:
    inputs, outputs = conv.weight.shape[:2]
    groups = inputs if is_depthwise(conv) else conv._groups
    return cut_conv(conv, sizes, inputs, outputs * groups, groups)


for plain, elastic, sides, variants in (
    (nn.Conv1D, SuperConv1D, 1, ()),
    (nn.Conv2D, SuperConv2D, 2, (SuperGroupConv2D, SuperDepthwiseConv2D)),
    (nn.Conv3D, SuperConv3D, 3, ()),
    (nn.Conv1DTranspose, SuperConv1DTranspose, 1, ()),
    (nn.Conv2DTranspose, SuperConv2DTranspose, 2, (SuperGroupConv2DTranspose, SuperDepthwiseConv2DTranspose)),
    (nn.Conv3DTranspose, SuperConv3DTranspose, 3, ()),
):
    transposed = issubclass(elastic, ElasticConvTranspose)
    channels = ("in", "out") if transposed else ("out", "in")
    register(
        LayerSpec(
            plain,
            elastic,
            params={"weight": (*channels, *["kernel"] * sides), "bias": ("out",)},
            width="out",
            measure=(lambda conv: {"out": conv._out_channels}) if transposed else None,
            cut=_cut_transposed if transposed else _cut,
            role_override=_own_roles,
            variants=variants,
            macs={"weight": 1, "bias": 1},
        )
    )
