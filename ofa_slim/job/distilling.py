"""Training by a teacher on a loader's batches: of a supernet, and of one smaller model alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import nn

from ofa_slim.base.checks import check_whole
from ofa_slim.base.copies import copied
from ofa_slim.base.unwrap import unwrap
from ofa_slim.closed_form.divergence import divergence, floats
from ofa_slim.errors import ConfigError
from ofa_slim.ofa import OFA
from ofa_slim.supernet.families import find_stacks
from ofa_slim.supernet.handle import make_plain
from ofa_slim.train.builders import Strategy, Teaching, only_subnet
from ofa_slim.train.distill_config import DistillConfig
from ofa_slim.train.feeds import LoaderFeed
from ofa_slim.train.loop import RuntimeOptions, Schedule, train
from ofa_slim.train.teacher import TeacherCache
from ofa_slim.train.teacher.keys import teacher_key

Loss = Callable[[Any, Any, Any], paddle.Tensor]
InputsOf = Callable[[Any], Any]

BLOCKS_RATE, FINISH_RATE, OTHER_RATE = 5e-5, 1e-4, 1e-3


@dataclass(frozen=True)
class Finish:
    """How the chosen sub-network trains on alone, with the original as its teacher.

    Args:
        epochs: passes over the loader.
        learning_rate: the highest, with warm-up and linear decay; by default 1e-4 for a model of a known family of
            transformers and 1e-3 for others.
        loss: as in `Training`; hidden states of known blocks are learnt beside it.
        checkpoint_every: steps between two checkpoints, where there is a directory.
        seed: of dropout.
        dropout: whether layers of dropout and attentions drop, at the rates that they have. A network that was cut
            small is too small to overfit what its teacher answers, and learns better without (`benchmarks/README.md`).
        trial_steps: where whole parts may be left out without training, sizes that keep all blocks or fewer first train
            for so many steps each, and those that come nearest to the original go on; 0: sizes of all blocks do.
        cache_teacher: keeps the original's answers on disk, so that it runs in the first epoch only, and not at all
            where another sub-network has learnt from it; None keeps none.

    Raises: ConfigError for values that no training can have.
    """

    epochs: int = 1
    learning_rate: float | None = None
    loss: Loss | None = None
    checkpoint_every: int = 100
    seed: int = 0
    dropout: bool = False
    trial_steps: int = 100
    cache_teacher: TeacherCache | None = None

    def __post_init__(self) -> None:
        """Checks the numbers."""
        check_counts(self, {"epochs": 1, "checkpoint_every": 1, "seed": 0, "trial_steps": 0})
        check_training(self.learning_rate, self.loss)
        if not isinstance(self.dropout, bool):
            raise ConfigError(f"dropout {self.dropout!r} is not True or False")
        if not isinstance(self.cache_teacher, (TeacherCache, type(None))):
            raise ConfigError(f"cache_teacher {self.cache_teacher!r} is not a TeacherCache or None")


def check_counts(settings: Any, least: dict[str, int]) -> None:
    """Makes attributes plain whole numbers; raises ConfigError for one that is none of at least so much."""
    for name, smallest in least.items():
        value = getattr(settings, name)
        check_whole(value, name, smallest, ConfigError)
        object.__setattr__(settings, name, int(value))  # they are frozen, and go into JSON, which takes none of NumPy's


def check_training(rate: Any, loss: Any) -> None:
    """Raises ConfigError for a learning rate or a loss that is none."""
    number = isinstance(rate, (int, float)) and not isinstance(rate, bool)
    if rate is not None and not (number and math.isfinite(rate) and rate > 0):
        raise ConfigError(f"learning_rate is {rate!r}, not a number above 0")
    if loss is not None and not callable(loss):
        raise ConfigError(f"loss is a {type(loss).__name__}, not a function of an output, the teacher's and a batch")


def soft_loss(output: Any, teacher_output: Any) -> paddle.Tensor:
    """How far a model's outputs are from its teacher's: a scalar, summed over the float outputs that both have.

    Logits are compared by their Kullback-Leibler divergence along the last axis, those of images [N, C, H, W] along C;
    outputs of one channel by their squared difference. Each is the mean over all rows and positions.
    """
    pairs = zip(floats(output), floats(teacher_output), strict=False)
    return sum((divergence(_rows(wanted), _rows(one)).mean() for one, wanted in pairs), paddle.zeros([]))


def _rows(logits: paddle.Tensor) -> paddle.Tensor:
    if logits.ndim == 4:
        logits = logits.transpose([0, 2, 3, 1])
    return logits.reshape([-1, logits.shape[-1]])


def learning_rate_of(ofa: OFA, given: float | None, blocks: float = BLOCKS_RATE) -> float:
    """The learning rate that was given; else `blocks` for a model of a known family, and `OTHER_RATE` for others."""
    if given is not None:
        return given
    return blocks if find_stacks(unwrap(ofa.model)) else OTHER_RATE


def distil(
    ofa: OFA,
    feed: LoaderFeed,
    inputs: InputsOf,
    strategy: Strategy,
    loss: Loss | None,
    schedule: Schedule,
    title: str,
    options: RuntimeOptions,
    draws: np.random.Generator,
) -> None:
    """Trains sub-networks by the teacher of an `OFA`, from a checkpoint where there is one.

    Args:
        ofa: has a teacher.
        feed: the loader's batches.
        inputs: a batch without its labels.
        strategy: which sub-networks a batch trains.
        loss: see `Training`.
        schedule: how fast.
        title: of the progress bar.
        options: what surrounds it.
        draws: what the strategy draws from.
    """

    def step(batch: Any, scale: float, scaler: paddle.amp.GradScaler | None) -> list[tuple[Any, paddle.Tensor]]:
        def own(output: Any, teacher_output: Any) -> paddle.Tensor:
            return soft_loss(output, teacher_output) if loss is None else loss(output, teacher_output, batch)

        configs = strategy(draws)
        return list(zip(configs, ofa.train_step(inputs(batch), own, configs, scale, scaler), strict=True))

    train(ofa, step, feed, schedule, title, options, draws)


def finished(
    model: nn.Layer,
    original: nn.Layer,
    loader: Iterable[Any],
    inputs: InputsOf,
    finish: Finish,
    folder: Path | None,
    example: Any = None,
) -> nn.Layer:
    """Trains a smaller plain model alone, in place, with the original as its teacher; returns it, in eval mode.

    Args:
        model: cut out of `original`.
        original: stays as it is.
        loader: batches; it has a length.
        inputs: a batch without its labels.
        finish: how to train.
        folder: keeps checkpoints; None for none.
        example: a batch's inputs.
    """
    teacher = copied(original)
    key = teacher_key(model).hex()  # before anything trains
    blocks = len(find_stacks(model)) == 1
    if blocks:
        distill = Teaching(teacher, cache=finish.cache_teacher).config(model)
    else:
        distill = DistillConfig(teacher_model=teacher, mapping_layers=[], cache_teacher=finish.cache_teacher)
    ofa = OFA(model, only_subnet(model), distill, train_full=True, example_inputs=example)
    whole = ofa.search_space.largest()
    options = RuntimeOptions(
        seed=finish.seed,
        dropout=finish.dropout,
        # Another search may choose another sub-network, which then begins anew.
        checkpoints=None if folder is None else folder / "finish" / key[:12],
        recipe={
            "epochs": finish.epochs,
            "learning_rate": finish.learning_rate,
            "seed": finish.seed,
            "model": key,
            "dropout": finish.dropout,
        },
        every=finish.checkpoint_every,
    )
    schedule = Schedule(finish.epochs, 0, learning_rate_of(ofa, finish.learning_rate, FINISH_RATE))
    feed = LoaderFeed(loader, finish.epochs)
    distil(ofa, feed, inputs, lambda _: [whole], finish.loss, schedule, "finishing", options, np.random.default_rng(0))
    return make_plain(model)
