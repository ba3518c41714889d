"""Elastic normalisation layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import paddle
from paddle import ParamAttr, nn
from paddle.nn import functional as F

from ofa_slim.errors import IllegalSubnetError
from ofa_slim.supernet.layers.base import ElasticLayer, FollowingLayer
from ofa_slim.supernet.spec import LayerSpec, leading_of_each, length, register


class SuperLayerNorm(ElasticLayer, nn.LayerNorm):
    """`paddle.nn.LayerNorm` over as many trailing channels as its input has.

    Args:
        normalized_shape: full shape of the normalised part; elastic where it has one dimension.
        epsilon, weight_attr, bias_attr, name: as in `paddle.nn.LayerNorm`.
    """

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        epsilon: float = 1e-5,
        weight_attr: ParamAttr | bool | None = None,
        bias_attr: ParamAttr | bool | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(normalized_shape, epsilon, weight_attr=weight_attr, bias_attr=bias_attr, name=name)
        self.make_elastic()

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
        return F.layer_norm(
            input,
            [width],
            weight=self.part("weight", sizes),
            bias=self.part("bias", sizes),
            epsilon=self._epsilon,
        )


# The row of every layer norm, PaddleNLP's subclasses of Paddle's included.
OVER_CHANNELS: dict[str, Any] = {
    "params": {"weight": ("out",), "bias": ("out",)},
    "sizes": {"out": "_normalized_shape"},
    "width": "out",
    "follows": True,
    "macs": {"out": 2},
}
register(LayerSpec(nn.LayerNorm, SuperLayerNorm, **OVER_CHANNELS))


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
        return F.instance_norm(
            input,
            weight=self.part("scale", sizes),
            bias=self.part("bias", sizes),
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


for plain, elastic in (
    (nn.InstanceNorm1D, SuperInstanceNorm1D),
    (nn.InstanceNorm2D, SuperInstanceNorm2D),
    (nn.InstanceNorm3D, SuperInstanceNorm3D),
):
    register(
        LayerSpec(
            plain,
            elastic,
            params={"scale": ("out",), "bias": ("out",)},
            sizes={"out": "_num_features"},
            width="out",
            follows=True,
            macs={"out": 2},
        )
    )


class SuperGroupNorm(FollowingLayer, nn.GroupNorm):
    """`paddle.nn.GroupNorm` over as many channels as its input has, in as many groups as ever.

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
        return F.group_norm(
            input,
            groups,
            self._epsilon,
            self.part("weight", sizes),
            self.part("bias", sizes),
            self._data_format,
        )


register(
    LayerSpec(
        nn.GroupNorm,
        SuperGroupNorm,
        params={"weight": ("out",), "bias": ("out",)},
        sizes={"out": "_num_channels"},
        width="out",
        follows=True,
        macs={"out": 2},
    )
)
