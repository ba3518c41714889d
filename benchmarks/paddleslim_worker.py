"""Training steps of PaddleSlim's supernet, one per line of standard input; run by its own Python (`paddleslim_env.py`).

A BERT of MiniLM's shape is built from Paddle's layers, converted and wrapped as PaddleSlim's users do for their
BERT, with its replacement of attention; the step is their published loop. A line holds the length of the batch's
rows; the answer is the step's seconds. The first line that is written says that the worker is ready.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

import paddleslim  # noqa: F401  has to be imported before paddle  # isort: skip
import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import nn
from paddleslim.nas.ofa import OFA, DistillConfig
from paddleslim.nas.ofa.convert_super import Convert, supernet
from paddleslim.nas.ofa.layers import SuperLayerNorm
from paddleslim.nas.ofa.utils import (
    dynabert_config,
    nlp_utils,  # noqa: F401  its import replaces the forward of attention and encoder
)

VOCABULARY, POSITIONS, TYPES, CLASSES = 30522, 512, 2, 2
HIDDEN, LAYERS, HEADS, NEURONS = 384, 6, 12, 1536
DROPOUT = 0.1
LAMBDA = 0.1

# As released, this forward expects three values of a function that returns one. Widths of the hidden size are
# not elastic here, so the plain forward computes the same, with less work.
SuperLayerNorm.forward = nn.LayerNorm.forward


class Embeddings(nn.Layer):
    """Words, positions and token types, summed and normalised."""

    def __init__(self) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(VOCABULARY, HIDDEN)
        self.position_embeddings = nn.Embedding(POSITIONS, HIDDEN)
        self.token_type_embeddings = nn.Embedding(TYPES, HIDDEN)
        self.layer_norm = nn.LayerNorm(HIDDEN)
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, input_ids: paddle.Tensor, token_type_ids: paddle.Tensor) -> paddle.Tensor:
        positions = paddle.arange(input_ids.shape[1]).expand_as(input_ids)
        words = self.word_embeddings(input_ids)
        total = words + self.position_embeddings(positions) + self.token_type_embeddings(token_type_ids)
        return self.dropout(self.layer_norm(total))


class Pooler(nn.Layer):
    """The first token, through one layer."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Linear(HIDDEN, HIDDEN)

    def forward(self, hidden: paddle.Tensor) -> paddle.Tensor:
        return paddle.tanh(self.dense(hidden[:, 0]))


class Bert(nn.Layer):
    """The encoder; its mask is PaddleSlim's pair of an attention mask and a head mask."""

    def __init__(self) -> None:
        super().__init__()
        self.embeddings = Embeddings()
        block = nn.TransformerEncoderLayer(
            HIDDEN, HEADS, NEURONS, dropout=DROPOUT, activation="gelu", attn_dropout=DROPOUT, act_dropout=0
        )
        self.encoder = nn.TransformerEncoder(block, LAYERS)
        self.pooler = Pooler()

    def forward(
        self, input_ids: paddle.Tensor, token_type_ids: paddle.Tensor, attention_mask: Sequence[paddle.Tensor | None]
    ) -> paddle.Tensor:
        padding, heads = attention_mask
        if padding is None:
            padding = ((input_ids == 0).astype("float32") * -1e4).unsqueeze([1, 2])
        return self.pooler(self.encoder(self.embeddings(input_ids, token_type_ids), [padding, heads]))


class Classifier(nn.Layer):
    """Logits, float32 [batch, classes], of token ids and types, int64 [batch, length]."""

    def __init__(self) -> None:
        super().__init__()
        self.bert = Bert()
        self.dropout = nn.Dropout(DROPOUT)
        self.classifier = nn.Linear(HIDDEN, CLASSES)

    def forward(
        self, input_ids: paddle.Tensor, token_type_ids: paddle.Tensor, attention_mask: Sequence[paddle.Tensor | None]
    ) -> paddle.Tensor:
        return self.classifier(self.dropout(self.bert(input_ids, token_type_ids, attention_mask)))


class PaddleSlimLoop:
    """The published loop on PaddleSlim's own supernet."""

    def __init__(self, widths: Sequence[float], mapped: Sequence[str]) -> None:
        self.widths = widths
        self.mapped = mapped
        # The student first: dynabert_config counts on the numbers in the names of its layers.
        student = Convert(supernet(expand_ratio=list(widths))).convert(Classifier())
        distilling = DistillConfig(
            lambda_distill=LAMBDA, teacher_model=Classifier(), mapping_layers=list(mapped) or None
        )
        self.ofa = OFA(student, distill_config=distilling, elastic_order=["width"])
        self.ofa.set_epoch(0)
        self.ofa.set_task("width")
        self.optimizer = paddle.optimizer.AdamW(
            learning_rate=2e-5, parameters=self.ofa.model.parameters(), weight_decay=0.01
        )

    def step(self, input_ids: paddle.Tensor, token_type_ids: paddle.Tensor) -> None:
        for width in self.widths:
            self.ofa.set_net_config(dynabert_config(self.ofa, width))
            student, teacher = self.ofa(input_ids, token_type_ids, attention_mask=[None, None])
            loss = F.cross_entropy(student, F.softmax(teacher.detach()), soft_label=True)
            if self.mapped:
                loss = loss + self.ofa.calc_distill_loss()
            loss.backward()
        self.optimizer.step()
        self.optimizer.clear_grad()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--widths", type=float, nargs="+", default=[1.0, 0.75, 0.5])
    parser.add_argument("--mapped", nargs="*", default=[], help="layers whose outputs are compared")
    options = parser.parse_args()

    answers, sys.stdout = sys.stdout, sys.stderr  # PaddleSlim prints
    paddle.seed(0)
    rng = np.random.default_rng(0)
    loop = PaddleSlimLoop(options.widths, options.mapped)
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        input_ids = paddle.to_tensor(rng.integers(1, VOCABULARY, (options.batch_size, int(line))))
        token_type_ids = paddle.zeros_like(input_ids)
        start = time.perf_counter()
        loop.step(input_ids, token_type_ids)
        print(time.perf_counter() - start, file=answers, flush=True)


if __name__ == "__main__":
    main()
