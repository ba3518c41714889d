"""MiniLM's shape with random weights, and random batches for it: time and memory do not depend on the values."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import nn

VOCABULARY = 30522
CLASSES = 2
LAYERS = 6

MAPPABLE = ["bert.embeddings", *(f"bert.encoder.layers.{layer}" for layer in range(LAYERS))]
"""Every layer that a teacher's can be compared with, as DynaBERT does."""


def minilm() -> nn.Layer:
    """A BERT classifier of MiniLM's shape."""
    from paddlenlp.transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=384,
        num_hidden_layers=LAYERS,
        num_attention_heads=12,
        intermediate_size=1536,
        num_labels=CLASSES,
    )
    return BertForSequenceClassification(config)


def random_batch(rng: np.random.Generator, size: int, length: int) -> tuple[paddle.Tensor, ...]:
    """Token ids and token types, int64 [size, length], and labels, int64 [size]."""
    input_ids = paddle.to_tensor(rng.integers(1, VOCABULARY, (size, length)))
    labels = paddle.to_tensor(rng.integers(0, CLASSES, size))
    return input_ids, paddle.zeros_like(input_ids), labels


def adamw(parameters: Sequence[paddle.Tensor]) -> paddle.optimizer.Optimizer:
    return paddle.optimizer.AdamW(learning_rate=2e-5, parameters=parameters, weight_decay=0.01)


def soft_label_loss(student: paddle.Tensor, teacher: paddle.Tensor) -> paddle.Tensor:
    """Cross entropy of the student's logits to the teacher's distribution, both [batch, classes]."""
    return F.cross_entropy(student, F.softmax(teacher.detach()), soft_label=True)
