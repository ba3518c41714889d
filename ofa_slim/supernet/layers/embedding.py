"""An elastic embedding table."""

from __future__ import annotations

import paddle
from paddle import ParamAttr, nn

from ofa_slim.supernet.layers.elastic import WIDTH_KEYS, CandidateConfig, ElasticLayer, checked_candidates
from ofa_slim.supernet.spec import LayerSpec, part_of, register


class SuperEmbedding(ElasticLayer, nn.Embedding):
    """`paddle.nn.Embedding` that returns the leading channels of each row.

    Args:
        num_embeddings: rows of the table; never cut.
        embedding_dim: full width of a row, channels; grown to the largest `channel` among the choices.
        candidate_config: choices for sampling, e.g. ``{"expand_ratio": (0.5, 1.0)}``.
        padding_idx, sparse, weight_attr, name: as in `paddle.nn.Embedding`.
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        candidate_config: CandidateConfig | None = None,
        padding_idx: int | None = None,
        sparse: bool = False,
        weight_attr: ParamAttr | None = None,
        name: str | None = None,
    ) -> None:
        choices = checked_candidates(type(self).__name__, candidate_config, WIDTH_KEYS)
        width = max([embedding_dim, *map(int, choices.get("channel", ()))])
        super().__init__(num_embeddings, width, padding_idx, sparse=sparse, weight_attr=weight_attr, name=name)
        self.make_by_hand(choices)

    def forward(self, x: paddle.Tensor, expand_ratio: float | None = None, channel: int | None = None) -> paddle.Tensor:
        """Looks rows up at a width.

        Args:
            x: integer ``[...]``, each below `num_embeddings`.
            expand_ratio: share of the width, for this call only.
            channel: the width in channels, for this call only; takes precedence over `expand_ratio`.

        Returns: float ``[..., out]``.

        Raises: IllegalSubnetError where the width is not between 1 and `embedding_dim`.
        """
        out = self.output_extent(expand_ratio, channel)
        # Cutting the rows after the look-up is cheaper than slicing the whole table in every step.
        rows = super().forward(x)
        if out is None:
            return rows
        part = part_of(rows, [*["row"] * (rows.ndim - 1), "out"], {"out": out})
        # Paddle 3.1 and 3.2 read wrong entries where a model indexes a view with a tensor.
        return part.contiguous() if paddle.in_dynamic_mode() else part


register(
    LayerSpec(
        nn.Embedding,
        SuperEmbedding,
        params={"weight": ("rows", "out")},
        sizes={"rows": "_num_embeddings", "out": "_embedding_dim"},
        width="out",
    )
)
