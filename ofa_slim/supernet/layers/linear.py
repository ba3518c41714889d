"""An elastic fully connected layer."""

from __future__ import annotations

from typing import cast

import paddle
from paddle import ParamAttr, nn

from ofa_slim.errors import IllegalSubnetError
from ofa_slim.supernet.layers.affine import affine
from ofa_slim.supernet.layers.elastic import WIDTH_KEYS, CandidateConfig, ElasticLayer, checked_candidates
from ofa_slim.supernet.layers.left_out import bias_only
from ofa_slim.supernet.spec import LayerSpec, register


class SuperLinear(ElasticLayer, nn.Linear):
    """`paddle.nn.Linear` that computes with the leading slice of its weight.

    Args:
        in_features: full input width, channels.
        out_features: full output width, channels; grown to the largest `channel` among the choices.
        candidate_config: choices for sampling, e.g. ``{"expand_ratio": (0.5, 1.0)}``.
        weight_attr, bias_attr, name: as in `paddle.nn.Linear`.

    Source: Cai et al. 2020, arXiv:1908.09791.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        candidate_config: CandidateConfig | None = None,
        weight_attr: ParamAttr | None = None,
        bias_attr: ParamAttr | bool | None = None,
        name: str | None = None,
    ) -> None:
        choices = checked_candidates(type(self).__name__, candidate_config, WIDTH_KEYS)
        width = max([out_features, *map(int, choices.get("channel", ()))])
        super().__init__(in_features, width, weight_attr, bias_attr, name)
        self.make_by_hand(choices)

    def forward(
        self, input: paddle.Tensor, expand_ratio: float | None = None, channel: int | None = None
    ) -> paddle.Tensor:
        """Applies the layer at a width.

        Args:
            input: float ``[..., in]``; `in` may be smaller than `in_features`.
            expand_ratio: share of the output width, for this call only.
            channel: the output width in channels, for this call only; takes precedence over `expand_ratio`.

        Returns: float ``[..., out]``; ``[..., 1]`` where its active width is 0, for the places.

        Raises: IllegalSubnetError where the width is not between 1 and `out_features`, or the input too wide.
        """
        if self.omitted("out") and expand_ratio is None and channel is None:  # the sub-layer that it begins is left out
            return input[..., :1]
        if self.omitted("in"):
            return bias_only(input, cast(paddle.Tensor, self.active_part("bias")))
        if input.shape[-1] > self.max_sizes["in"]:
            raise IllegalSubnetError(
                f"{self.full_name()}: {input.shape[-1]} input channels; at most {self.max_sizes['in']}"
            )
        sizes = {"in": self.active_sizes.get("in", input.shape[-1])}
        out = self.output_extent(expand_ratio, channel)
        if out is not None:
            sizes["out"] = out
        weight = cast(paddle.Tensor, self.part("weight", sizes))
        return affine(input, weight, self.part("bias", sizes), self.name)


register(
    LayerSpec(
        nn.Linear,
        SuperLinear,
        params={"weight": ("in", "out"), "bias": ("out",)},
        width="out",
        macs={"weight": 1},
    )
)
