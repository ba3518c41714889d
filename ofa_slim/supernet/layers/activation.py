"""Elastic activations: those with parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import paddle
from paddle import nn
from paddle.nn import functional as F

from ofa_slim.supernet.layers.elastic import FollowingLayer
from ofa_slim.supernet.spec import LayerSpec, Sizes, register


class SuperPReLU(FollowingLayer, nn.PReLU):
    """`paddle.nn.PReLU` with as many slopes as its input has channels; a single slope is never cut.

    Args: as in `paddle.nn.PReLU`; `num_parameters` is 1, or the full width.
    """

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """Applies the slopes.

        Args:
            x: float ``[batch, width, ...]``, or channels last as `data_format` says; `width` may be smaller
                than the full one.

        Returns: float, the shape of the input.
        """
        slopes = cast(paddle.Tensor, self.part("_weight", {"out": self.followed(x)}))
        return F.prelu(x, slopes, data_format=cast(Any, self._data_format))


def _own_roles(prelu: nn.Layer, name: str, roles: tuple[str, ...]) -> tuple[str, ...]:
    return ("all",) if prelu._num_parameters == 1 else roles


def _cut(prelu: nn.Layer, sizes: Sizes) -> Callable[[], None]:
    old = prelu._num_parameters
    prelu._num_parameters = prelu._weight.shape[0]
    return lambda: setattr(prelu, "_num_parameters", old)


register(
    LayerSpec(
        nn.PReLU,
        SuperPReLU,
        params={"_weight": ("out",)},
        cut=_cut,
        role_override=_own_roles,
        neutral={"_weight": 0.25},
    )
)
