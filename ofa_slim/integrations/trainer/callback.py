"""What the supernet's trainer does at the events of PaddleNLP's training loop."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import paddle
from paddle import distributed, nn
from paddlenlp.trainer import TrainerCallback
from paddlenlp.trainer.trainer_utils import has_length

from ofa_slim.train import parallel


class OFACallback(TrainerCallback):
    """Makes every step a function of its number, and lets gradients meet.

    The Trainer restores random states in the middle of an epoch only, and shuffles from a state that depends on what
    ran before. With seeds of their own, epochs and steps do not depend on where a run was resumed.
    """

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Seeds the order of the examples, and drops the gradients of batches that made no whole step."""
        loader = kwargs["train_dataloader"]
        if has_length(loader):  # an iterable dataset has an order of its own
            steps = max(len(loader) // args.gradient_accumulation_steps, 1)
            # The same on every process: each takes its part of one order.
            seed = _seed(args.seed, state.global_step // steps, 0)
            random.seed(seed)
            np.random.seed(seed)  # noqa: NPY002  # Paddle's samplers draw from it
        kwargs["optimizer"].clear_grad()  # checkpoints do not hold them, so a resumed run does not have them

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Seeds dropout."""
        paddle.seed(_seed(args.seed, state.global_step, 1 + distributed.get_rank()))

    def on_optimizer_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Averages gradients over processes: sub-networks run outside of the layer that would."""
        model: nn.Layer = kwargs["model"]
        parallel.reduce_gradients(model.parameters())


def _seed(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])
