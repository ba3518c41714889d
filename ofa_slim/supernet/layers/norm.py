"""Elastic normalisation layers."""

from __future__ import annotations

from typing import Any

import paddle
from paddle import nn
from paddle.nn import functional as F

from ofa_slim.errors import IllegalSubnetError
from ofa_slim.supernet.layers.elastic import FollowingLayer
from ofa_slim.supernet.spec import LayerSpec, leading_of_each, length, register


class SuperLayerNorm(FollowingLayer, nn.LayerNorm):
    """`paddle.nn.LayerNorm` over as many trailing channels as its input has.

    Args: as in `paddle.nn.LayerNorm`; elastic where `normalized_shape` has one dimension.
    """

    def forward(self, input: paddle.Tensor) -> paddle.Tensor:
        """Normalises the trailing channels.

        Args:
            input: float ``[..., width]``; `width` may be smaller than the full one.

        Returns: float, the shape of the input.
        """
        if len(self._normalized_shape) > 1:
            return super().forward(input)
        width = input.shape[-1]
        sizes = {"out": self.active_sizes.get("out", width)}
        return F.layer_norm(input, [width], self.part("weight", sizes), self.part("bias", sizes), self._epsilon)


def of_one_kind(
    scale: paddle.Tensor | None, bias: paddle.Tensor | None
) -> tuple[paddle.Tensor | None, paddle.Tensor | None]:
    """A norm's parts as they are, or copies that both take gradients where only one of them does.

    The process crashes in the backward pass of a batch or instance norm (Paddle 3.3.1) where one of the two takes
    gradients and the other is a slice that does not. Nothing reads the gradient of the frozen one's copy.
    """
    if scale is None or bias is None or scale.stop_gradient == bias.stop_gradient or not paddle.in_dynamic_mode():
        return scale, bias
    scale, bias = scale.clone(), bias.clone()
    scale.stop_gradient = bias.stop_gradient = False
    return scale, bias


class ElasticInstanceNorm(FollowingLayer):
    """Mixin of every elastic instance norm: it normalises as many channels as its input has."""

    def forward(self, input: paddle.Tensor) -> paddle.Tensor:
        """Normalises each channel of each sample.

        Args:
            input: float ``[batch, width, *spatial]``; `width` may be smaller than the full one.

        Returns: float, the shape of the input.
        """
        self._check_input_dim(input)
        sizes = {"out": self.followed(input)}
        scale, bias = of_one_kind(self.part("scale", sizes), self.part("bias", sizes))
        return F.instance_norm(
            input,
            weight=scale,
            bias=bias,
            momentum=self._momentum,
            eps=self._epsilon,
            data_format=self._data_format,
        )


class SuperInstanceNorm1D(ElasticInstanceNorm, nn.InstanceNorm1D):
    """`paddle.nn.InstanceNorm1D`, with its arguments, over as many channels as its input has."""


class SuperInstanceNorm2D(ElasticInstanceNorm, nn.InstanceNorm2D):
    """`paddle.nn.InstanceNorm2D`, with its arguments, over as many channels as its input has."""


class SuperInstanceNorm3D(ElasticInstanceNorm, nn.InstanceNorm3D):
    """`paddle.nn.InstanceNorm3D`, with its arguments, over as many channels as its input has."""


class SuperGroupNorm(FollowingLayer, nn.GroupNorm):
    """`paddle.nn.GroupNorm` over as many channels as its input has, in its original number of groups.

    Args: as in `paddle.nn.GroupNorm`.
    """

    def forward(self, input: paddle.Tensor) -> paddle.Tensor:
        """Normalises each group of channels; with fewer channels each group has its leading ones.

        Args:
            input: float ``[batch, width, *spatial]``, or channels last as `data_format` says; `width` may be
                smaller than the full one.

        Returns: float, the shape of the input.

        Raises: IllegalSubnetError where the width is not a multiple of the groups.
        """
        groups = self._num_groups
        extent = self.followed(input)
        width = length(extent)
        if width % groups:
            raise IllegalSubnetError(f"{self.full_name()}: width {width} is not a multiple of its {groups} groups")
        if "out" not in self.active_sizes:
            extent = leading_of_each(width // groups, self._num_channels // groups, groups)
        sizes = {"out": extent}
        weight, bias = self.part("weight", sizes), self.part("bias", sizes)
        return F.group_norm(input, groups, self._epsilon, weight, bias, self._data_format)


def norm_row(size: str | None, scale: str = "weight", statistics: tuple[str, ...] = ()) -> dict[str, Any]:
    """The fields of a norm's `LayerSpec`.

    Args:
        size: the attribute with its number of channels; None without one.
        scale: its parameter that multiplies.
        statistics: its running mean and variance, if it has them.
    """
    return {
        "params": dict.fromkeys((scale, "bias", *statistics), ("out",)),
        "sizes": {} if size is None else {"out": size},
        "width": "out",
        "follows": True,
        "macs": {"out": 2},
        "neutral": dict.fromkeys((scale, *statistics[1:]), 1.0),
        "statistics": statistics,
    }


register(LayerSpec(nn.LayerNorm, SuperLayerNorm, **norm_row("_normalized_shape")))
register(LayerSpec(nn.GroupNorm, SuperGroupNorm, **norm_row("_num_channels")))
register(LayerSpec(nn.InstanceNorm1D, SuperInstanceNorm1D, **norm_row("_num_features", "scale")))
register(LayerSpec(nn.InstanceNorm2D, SuperInstanceNorm2D, **norm_row("_num_features", "scale")))
register(LayerSpec(nn.InstanceNorm3D, SuperInstanceNorm3D, **norm_row("_num_features", "scale")))
