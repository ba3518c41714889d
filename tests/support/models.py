"""Small models and random configs that the tests share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import paddle
from hypothesis import strategies as st
from paddle import nn

from ofa_slim import OFA, Convert, DistillConfig, RunConfig, SearchSpace, SubnetConfig, supernet

VOCABULARY = 50


def bert(layers: int = 2, heads: int = 4, head_dim: int = 4, ffn: int = 24, classes: int = 3, **more: Any) -> nn.Layer:
    """A BERT classifier without dropout, in eval mode, weights large enough that every part matters."""
    from paddlenlp.transformers import BertConfig, BertForSequenceClassification

    model = BertForSequenceClassification(
        BertConfig(
            vocab_size=VOCABULARY,
            hidden_size=heads * head_dim,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            intermediate_size=ffn,
            max_position_embeddings=32,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            num_labels=classes,
            initializer_range=0.3,
            **more,
        )
    )
    model.eval()
    return model


def encoder(layers: int = 2, heads: int = 4, head_dim: int = 4, ffn: int = 24) -> nn.TransformerEncoder:
    """Paddle's own encoder, in no family's wrapping."""
    block = nn.TransformerEncoderLayer(heads * head_dim, heads, ffn, dropout=0.0)
    return nn.TransformerEncoder(block, layers)


class Tagger(nn.Layer):
    """A hand-written model around an encoder, with a part of its own before and after."""

    def __init__(self, layers: int = 2) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, 16)
        self.body = encoder(layers)
        self.head = nn.Linear(16, 5)

    def forward(self, ids: paddle.Tensor) -> paddle.Tensor:
        return self.head(self.body(self.embed(ids)))


def batch(rows: int = 3, length: int = 7, seed: int = 0) -> tuple[paddle.Tensor, paddle.Tensor]:
    """Token ids with padding in the last row, and token types; int64 [rows, length]."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(1, VOCABULARY, (rows, length))
    ids[-1, length - 2 :] = 0
    return paddle.to_tensor(ids), paddle.to_tensor(rng.integers(0, 2, (rows, length)))


def labels(rows: int = 3, classes: int = 3, seed: int = 0) -> paddle.Tensor:
    return paddle.to_tensor(np.random.default_rng(seed).integers(0, classes, rows))


def ofa_of(
    model: nn.Layer,
    teacher: Any = None,
    ratios: Sequence[float] = (1.0, 0.5, 0.25),
    run_config: RunConfig | None = None,
    mapping_layers: Any = None,
    teacher_engine: str = "dygraph",
    **distill: Any,
) -> OFA:
    """The model as a supernet; its teacher's answers are exactly what the teacher computes."""
    Convert(supernet(expand_ratio=list(ratios))).convert(model)
    config = None
    if teacher is not None:
        config = DistillConfig(
            teacher_model=teacher, mapping_layers=mapping_layers, teacher_engine=teacher_engine, **distill
        )
    return OFA(model, run_config, config)


@st.composite
def shapes(draw: st.DrawFn) -> dict[str, int]:
    """Arguments of `bert`."""
    return {
        "layers": draw(st.integers(1, 4)),
        "heads": draw(st.integers(1, 4)),
        "head_dim": draw(st.sampled_from([2, 4, 6])),
        "ffn": draw(st.integers(4, 24)),
        "classes": draw(st.integers(1, 3)),
    }


def configs(space: SearchSpace) -> st.SearchStrategy[SubnetConfig]:
    """Any legal config of a space, listed among its choices or not."""
    return st.fixed_dictionaries({axis.name: st.integers(axis.least, axis.size) for axis in space.axes}).map(
        SubnetConfig
    )


def difference(one: paddle.Tensor, other: paddle.Tensor) -> float:
    assert one.shape == other.shape
    return float((one - other).abs().max())
