"""What a training step of a supernet costs beside the sum of its parts.

One side is the published loop: each width in turn, forward, distillation loss and backward, then one
optimizer step. The other does the same arithmetic with plain models: forward, loss and backward of a dense
model of each width, one forward of the teacher, one optimizer step of the full model. Both sides compute
the same loss, soft labels and hidden states, with the same public functions of Paddle.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import nn

from alternation import alternate, minilm, random_batch, report
from ofa_slim import OFA, Convert, DistillConfig, dynabert_config, supernet

LAMBDA = 0.1
MAPPED = "bert.encoder.layers.5"


def soft_label_loss(student: paddle.Tensor, teacher: paddle.Tensor) -> paddle.Tensor:
    """Cross entropy of the student's logits to the teacher's distribution, both [batch, classes]."""
    return F.cross_entropy(student, F.softmax(teacher.detach()), soft_label=True)


def adamw(parameters: Sequence[paddle.Tensor]) -> paddle.optimizer.Optimizer:
    return paddle.optimizer.AdamW(learning_rate=2e-5, parameters=parameters, weight_decay=0.01)


@contextmanager
def last_output(model: nn.Layer) -> Iterator[list[paddle.Tensor]]:
    """A list that holds the mapped layer's output after each forward of the model."""
    kept: list[paddle.Tensor] = []

    def keep(layer: nn.Layer, inputs: object, output: paddle.Tensor) -> None:
        kept[:] = [output]

    hook = dict(model.named_sublayers())[MAPPED].register_forward_post_hook(keep)
    try:
        yield kept
    finally:
        hook.remove()


class PublishedLoop:
    """A training step of a supernet, as DynaBERT's script writes it."""

    def __init__(self, widths: Sequence[float], mapped: bool) -> None:
        self.widths = widths
        self.mapped = mapped
        model = Convert(supernet(expand_ratio=list(widths))).convert(minilm())
        distilling = DistillConfig(
            lambda_distill=LAMBDA, teacher_model=minilm(), mapping_layers=[MAPPED] if mapped else None
        )
        self.ofa = OFA(model, distill_config=distilling)
        self.ofa.train()
        self.optimizer = adamw(self.ofa.parameters())

    def step(self, input_ids: paddle.Tensor, token_type_ids: paddle.Tensor) -> None:
        for width in self.widths:
            self.ofa.set_net_config(dynabert_config(self.ofa, width))
            student, teacher = self.ofa(input_ids, token_type_ids)
            loss = soft_label_loss(student, teacher)
            if self.mapped:
                loss = loss + self.ofa.calc_distill_loss()
            loss.backward()
        self.optimizer.step()
        self.optimizer.clear_grad()

    def dense(self, width: float) -> nn.Layer:
        """A plain model of this width."""
        shapes, dtypes = [[2, 16], [2, 16]], ["int64", "int64"]
        return self.ofa.export(config=dynabert_config(self.ofa, width), input_shapes=shapes, input_dtypes=dtypes)


class Parts:
    """The same arithmetic with plain models and no supernet."""

    def __init__(self, models: Sequence[nn.Layer], mapped: bool) -> None:
        self.mapped = mapped
        self.models = models
        self.teacher = minilm()
        self.teacher.eval()
        for model in models:
            model.train()
        full = minilm()
        for parameter in full.parameters():  # an optimizer skips what has no gradient
            parameter.sum().backward()
        self.optimizer = adamw(full.parameters())

    def step(self, input_ids: paddle.Tensor, token_type_ids: paddle.Tensor) -> None:
        with paddle.no_grad(), last_output(self.teacher) as teacher_hidden:
            teacher = self.teacher(input_ids, token_type_ids)
        for model in self.models:
            with last_output(model) as hidden:
                student = model(input_ids, token_type_ids)
                loss = soft_label_loss(student, teacher)
                if self.mapped:
                    loss = loss + LAMBDA * F.mse_loss(hidden[0], teacher_hidden[0])
            loss.backward()  # adds to the gradients of the step before, as the loop's widths add up
        self.optimizer.step()
        self.optimizer.clear_grad()  # leaves zeros, so that the next step moves everything again


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9, help="rounds that are timed (default 9)")
    parser.add_argument("--steps", type=int, default=1, help="steps per round and side (default 1)")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--widths", type=float, nargs="+", default=[1.0, 0.75, 0.5])
    parser.add_argument("--no-mapping", action="store_true", help="distil soft labels only")
    options = parser.parse_args()
    if options.rounds < 1 or options.steps < 1:
        parser.error("--rounds and --steps are at least 1")

    paddle.seed(0)
    rng = np.random.default_rng(0)
    loop = PublishedLoop(options.widths, mapped=not options.no_mapping)
    parts = Parts([loop.dense(width) for width in options.widths], mapped=not options.no_mapping)

    # Fresh tensors per step, as a data loader gives them: the teacher has to run once for each.
    def ours() -> None:
        for _ in range(options.steps):
            loop.step(*random_batch(rng, options.batch_size, options.length)[:2])

    def theirs() -> None:
        for _ in range(options.steps):
            parts.step(*random_batch(rng, options.batch_size, options.length)[:2])

    result = alternate(ours, theirs, options.rounds)
    report(
        "train_step",
        result,
        rounds=options.rounds,
        widths=options.widths,
        batch_size=options.batch_size,
        length=options.length,
        mapping=not options.no_mapping,
    )


if __name__ == "__main__":
    main()
