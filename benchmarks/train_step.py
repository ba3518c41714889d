"""What a training step of a supernet costs beside the sum of its parts, and beside PaddleSlim.

All sides do the same arithmetic, each width on each batch with a teacher and one mapped layer, and take turns:

- train_step: `OFA.train_step`, which does every width of a batch in one call, then one optimizer step;
- published loop: each width in turn, forward, distillation loss and backward, then one optimizer step;
- parts: plain models and no supernet: forward, loss and backward of a dense model of each width, one forward
  of the teacher, one optimizer step of the full model;
- PaddleSlim (with --paddleslim): the published loop on PaddleSlim 2.6.0 and Paddle 2.6.2, in a process of its
  own. Its environment is made in runs/ where it is not there.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import nn

from alternation import alternate, report, timed
from minilm import adamw, minilm, random_batch, soft_label_loss
from ofa_slim import OFA, Convert, DistillConfig, dynabert_config, supernet
from ofa_slim.base.modes import rest_dropout
from ofa_slim.train.teacher import ENGINES
from paddleslim_env import paddleslim_worker

LAMBDA = 0.1
MAPPED = "bert.encoder.layers.5"

# What is wanted of the ratio of one side to another.
WANTED = {
    ("train_step", "parts"): "at most 0.95",
    ("published loop", "parts"): "at most 1.00",
    ("PaddleSlim", "train_step"): "at least 1.50",
}


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


class Supernet:
    """What the two sides with a supernet are made of; each has one of its own."""

    def __init__(self, widths: Sequence[float], mapped: bool, teacher_engine: str) -> None:
        self.mapped = mapped
        model = Convert(supernet(expand_ratio=list(widths))).convert(minilm())
        distilling = DistillConfig(
            lambda_distill=LAMBDA,
            teacher_model=minilm(),
            mapping_layers=[MAPPED] if mapped else None,
            teacher_engine=teacher_engine,
        )
        self.ofa = OFA(model, distill_config=distilling)
        self.ofa.train()
        self.configs = [dynabert_config(self.ofa, width) for width in widths]
        self.optimizer = adamw(self.ofa.parameters())

    def dense(self) -> list[nn.Layer]:
        """A plain model of each width."""
        shapes, dtypes = [[2, 16], [2, 16]], ["int64", "int64"]
        return [self.ofa.export(config=config, input_shapes=shapes, input_dtypes=dtypes) for config in self.configs]


class TrainStep(Supernet):
    """A training step of a supernet in one call."""

    def step(self, input_ids: paddle.Tensor, token_type_ids: paddle.Tensor) -> None:
        self.ofa.train_step((input_ids, token_type_ids), soft_label_loss, self.configs)
        self.optimizer.step()
        self.optimizer.clear_grad()


class PublishedLoop(Supernet):
    """A training step of a supernet, as DynaBERT's script writes it."""

    def step(self, input_ids: paddle.Tensor, token_type_ids: paddle.Tensor) -> None:
        for config in self.configs:
            self.ofa.set_net_config(config)
            student, teacher = self.ofa(input_ids, token_type_ids)
            loss = soft_label_loss(student, teacher)
            if self.mapped:
                loss = loss + self.ofa.calc_distill_loss()
            loss.backward()
        self.optimizer.step()
        self.optimizer.clear_grad()


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
    parser.add_argument("--teacher-engine", choices=ENGINES, default="auto", help="of the two sides with a supernet")
    parser.add_argument("--paddleslim", action="store_true", help="time PaddleSlim as well")
    parser.add_argument("--no-dropout", action="store_true", help="of our two sides; the parts without are timed too")
    options = parser.parse_args()
    if options.rounds < 1 or options.steps < 1:
        parser.error("--rounds and --steps are at least 1")

    paddle.seed(0)
    rng = np.random.default_rng(0)
    mapped = not options.no_mapping
    ours = TrainStep(options.widths, mapped, options.teacher_engine)
    loop = PublishedLoop(options.widths, mapped, options.teacher_engine)
    parts = Parts(loop.dense(), mapped)

    if options.no_dropout:
        rest_dropout(ours.ofa)
        rest_dropout(loop.ofa)

    def steps(step: Callable[[paddle.Tensor, paddle.Tensor], None]) -> Callable[[], None]:
        # Fresh tensors per step, as a data loader gives them: the teacher has to run once for each.
        def work() -> None:
            for _ in range(options.steps):
                step(*random_batch(rng, options.batch_size, options.length)[:2])

        return work

    sides = {
        "train_step": timed(steps(ours.step)),
        "published loop": timed(steps(loop.step)),
        "parts": timed(steps(parts.step)),
    }
    if options.no_dropout:
        resting = Parts(loop.dense(), mapped)
        for model in resting.models:
            rest_dropout(model)
        sides["parts without dropout"] = timed(steps(resting.step))
    with ExitStack() as stack:
        if options.paddleslim:
            layers = [MAPPED] if mapped else []
            worker = stack.enter_context(paddleslim_worker(options.batch_size, options.widths, layers))
            sides["PaddleSlim"] = lambda: sum(worker.step(options.length) for _ in range(options.steps))
        seconds = alternate(sides, options.rounds)
    report(
        "train_step",
        seconds,
        base="parts",
        wanted={pair: words for pair, words in WANTED.items() if pair[0] in sides},
        rounds=options.rounds,
        steps=options.steps,
        widths=options.widths,
        batch_size=options.batch_size,
        length=options.length,
        mapping=mapped,
        teacher_engine=options.teacher_engine,
        dropout=not options.no_dropout,
    )


if __name__ == "__main__":
    main()
