"""An elastic separable convolution."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import paddle
from paddle import ParamAttr, nn

from ofa_slim.supernet.layers.conv import SuperConv2D
from ofa_slim.supernet.layers.conv_base import Sides
from ofa_slim.supernet.layers.elastic import CandidateConfig, swap_class
from ofa_slim.supernet.spec import spec_of


class SuperSeparableConv2D(nn.Layer):
    """A convolution of each channel, a norm, and a 1 x 1 convolution that mixes the channels.

    The first two have the width of the input; the last one has the output width of the call or the sub-network.

    Args:
        in_channels: full input width.
        out_channels: full output width.
        kernel_size: size of the kernel of the first convolution.
        candidate_config: choices for sampling, e.g. ``{"expand_ratio": (0.5, 1.0)}``.
        stride, padding, dilation: of the first convolution.
        norm_layer: makes the norm of a width, such as its class; None for no norm.
        bias_attr: as in `paddle.nn.Conv2D` for the last convolution; the first has a bias only if this is given.
        scale_factor: channels between the convolutions per input channel.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sides,
        candidate_config: CandidateConfig | None = None,
        stride: Sides = 1,
        padding: str | int | Sequence[Any] = 0,
        dilation: Sides = 1,
        norm_layer: Callable[[int], nn.Layer] | None = nn.InstanceNorm2D,
        bias_attr: ParamAttr | bool | None = None,
        scale_factor: int = 1,
    ) -> None:
        super().__init__()
        between = in_channels * scale_factor
        self.depthwise = SuperConv2D(
            in_channels,
            between,
            kernel_size,
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=in_channels,
            bias_attr=bias_attr or False,
        )
        self.norm = None if norm_layer is None else norm_layer(between)
        if self.norm is not None and spec_of(self.norm) is not None:
            swap_class(self.norm)
        self.pointwise = SuperConv2D(between, out_channels, 1, candidate_config, bias_attr=bias_attr)

    @property
    def candidate_config(self) -> dict[str, tuple[float, ...]]:
        """The choices that sampling uses: those of the output width."""
        return self.pointwise.candidate_config

    def forward(self, x: paddle.Tensor, expand_ratio: float | None = None, channel: int | None = None) -> paddle.Tensor:
        """Applies the layer at a width.

        Args:
            x: float ``[batch, in, height, width]``; `in` may be smaller than `in_channels`.
            expand_ratio: share of the output width, for this call only.
            channel: the output width in channels, for this call only; takes precedence over `expand_ratio`.

        Returns: float ``[batch, out, height, width]``.

        Raises: IllegalSubnetError for a width that the layer cannot have.
        """
        x = self.depthwise(x)
        if self.norm is not None:
            x = self.norm(x)
        # After export the last convolution is plain and takes no width.
        given = {"expand_ratio": expand_ratio, "channel": channel}
        return self.pointwise(x, **{name: value for name, value in given.items() if value is not None})
