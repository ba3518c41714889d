"""Elastic normalisation layers."""

from __future__ import annotations

from collections.abc import Sequence

import paddle
from paddle import ParamAttr, nn
from paddle.nn import functional as F

from ofa_slim.supernet.layers.base import CandidateConfig, ElasticLayer
from ofa_slim.supernet.spec import LayerSpec, register


class SuperLayerNorm(ElasticLayer, nn.LayerNorm):
    """`paddle.nn.LayerNorm` over as many trailing channels as its input has.

    Args:
        normalized_shape: full shape of the normalised part; only its last dimension is elastic.
        candidate_config: choices for sampling; the width itself follows the input.
        epsilon, weight_attr, bias_attr, name: as in `paddle.nn.LayerNorm`.
    """

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        candidate_config: CandidateConfig | None = None,
        epsilon: float = 1e-5,
        weight_attr: ParamAttr | bool | None = None,
        bias_attr: ParamAttr | bool | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(normalized_shape, epsilon, weight_attr=weight_attr, bias_attr=bias_attr, name=name)
        self.make_elastic(candidate_config)

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


register(
    LayerSpec(
        nn.LayerNorm,
        SuperLayerNorm,
        params={"weight": ("out",), "bias": ("out",)},
        sizes={"out": "_normalized_shape"},
        width="out",
        follows=True,
    )
)
