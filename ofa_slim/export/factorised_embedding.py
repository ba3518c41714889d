"""An embedding whose table is a product, and its insertion into a model."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import paddle
from paddle import nn

from ofa_slim.supernet.paths import layer_at, parent_at
from ofa_slim.supernet.spec import cut_plain, parameter_like

Undo = Callable[[], None]


class FactorisedEmbedding(nn.Layer):
    """An embedding whose table is a product of rank r.

    Args:
        table: looks up rows, [rows, r].
        projection: from r to the width of the model, [r, width], without a bias.

    Source: Lan et al. 2019 (ALBERT), arXiv:1909.11942, section 3.1.
    """

    def __init__(self, table: nn.Embedding, projection: nn.Linear) -> None:
        super().__init__()
        self.table = table
        self.projection = projection

    @property
    def rank(self) -> int:
        """The width of a row of the table."""
        return int(self.table.weight.shape[1])

    @property
    def weight(self) -> paddle.Tensor:
        """The product, [rows, width]; computed anew each time, with gradients."""
        return paddle.matmul(self.table.weight, self.projection.weight)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """Looks rows up: integer ``[...]`` to float ``[..., width]``."""
        return self.projection(self.table(x))


def factorised_ranks(model: nn.Layer) -> dict[str, int]:
    """The rank of each factorised embedding of a model, by path."""
    layers = model.named_sublayers(include_self=True)
    return {path: layer.rank for path, layer in layers if isinstance(layer, FactorisedEmbedding)}


def put(model: nn.Layer, name: str, rank: int) -> tuple[FactorisedEmbedding, Undo]:
    """Puts a factorised embedding in the place of an embedding; its values are still to be set.

    The embedding itself, cut to the rank, becomes its table, with its padding and sparse gradients.

    Args:
        model: a plain model.
        name: path of the embedding.
        rank: of the product, less than its width.

    Returns: the new layer, and a function that puts the embedding back as it was.
    """
    parent, attribute = parent_at(model, name)
    table = cast(nn.Embedding, layer_at(model, name))
    old, width = table.weight, int(table.weight.shape[1])
    cut_back = cut_plain(table, {"out": rank})
    # A constant: drawing numbers would change those that the caller draws next.
    zero = paddle.ParamAttr(initializer=nn.initializer.Constant(0.0))
    projection = nn.Linear(rank, width, weight_attr=zero, bias_attr=False)
    projection.weight = parameter_like(projection, old, paddle.zeros([rank, width], old.dtype))
    layer = FactorisedEmbedding(table, projection)
    layer.training = projection.training = table.training
    parent.add_sublayer(attribute, layer)

    def back() -> None:
        parent.add_sublayer(attribute, table)
        cut_back()

    return layer, back
