"""What `OFATrainer` does at the events of PaddleNLP's training loop."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import paddle
from paddle import distributed, nn
from paddlenlp.trainer import TrainerCallback
from paddlenlp.trainer.trainer_utils import has_length

from ofa_slim.train import parallel
from ofa_slim.train.loop import derived_seed


class OFACallback(TrainerCallback):
    """Makes the randomness of every step depend on its number alone, and averages gradients over processes.

    The Trainer restores random states in the middle of an epoch only, and shuffles from a state that depends on what
    ran before. With seeds of their own, epochs and steps do not depend on where a run was resumed.
    """

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Seeds the order of the examples, and drops the gradients of an incomplete group of batches."""
        loader = kwargs["train_dataloader"]
        if has_length(loader):  # an iterable dataset has an order of its own
            steps = max(len(loader) // args.gradient_accumulation_steps, 1)
            # The same on every process: each takes its part of one order.
            seed = derived_seed(args.seed, state.global_step // steps, 0)
            random.seed(seed)
            np.random.seed(seed)  # noqa: NPY002  # Paddle's samplers draw from it
        kwargs["optimizer"].clear_grad()  # checkpoints do not hold them, so a resumed run does not have them

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Seeds dropout."""
        paddle.seed(derived_seed(args.seed, state.global_step, 1 + distributed.get_rank()))

    def on_optimizer_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Averages gradients over processes: sub-networks run outside of the layer that would.

        With sharding the Trainer has done it: each process has the sums of those parameters that it updates.
        """
        if not args.use_hybrid_parallel:
            model: nn.Layer = kwargs["model"]
            parallel.reduce_gradients(model.parameters())
