"""A smaller model for a budget by a supernet: order, training with the original as teacher, search, export."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import nn

from ofa_slim.base.checks import check_many
from ofa_slim.base.copies import copied
from ofa_slim.base.examples import Example
from ofa_slim.base.modes import forward_signature
from ofa_slim.base.unwrap import unwrap
from ofa_slim.closed_form import Calibration, reorder_by_obs, statistics
from ofa_slim.closed_form.calibration import LABELS
from ofa_slim.closed_form.layers import channel_removals
from ofa_slim.errors import BudgetError, ConfigError
from ofa_slim.export.formats.proof import Sample
from ofa_slim.job.compressed import Compressed, TrainedReport
from ofa_slim.job.distilling import (
    Finish,
    Loss,
    check_counts,
    check_training,
    distil,
    finished,
    learning_rate_of,
)
from ofa_slim.job.without_training import samples_of, timed_step
from ofa_slim.measure import LatencyTable
from ofa_slim.ofa import OFA
from ofa_slim.ordering.reorder import reorder_axis
from ofa_slim.search import SearchConfig
from ofa_slim.search.budget import Budget
from ofa_slim.search.scoring import Scorer
from ofa_slim.search.search import Search
from ofa_slim.supernet import Convert, SubnetConfig, supernet
from ofa_slim.supernet.families import find_stacks
from ofa_slim.supernet.handle import require_plain
from ofa_slim.supernet.spec import classes_with_statistics
from ofa_slim.train.builders import WIDTHS, Teaching, elastic_blocks
from ofa_slim.train.distill_config import DistillConfig
from ofa_slim.train.feeds import LoaderFeed
from ofa_slim.train.loop import RuntimeOptions, Schedule
from ofa_slim.train.strategies import Sandwich
from ofa_slim.train.teacher.keys import teacher_key

Evaluate = Callable[[nn.Layer], float | Mapping[str, float]]


@dataclass(frozen=True)
class Training:
    """How `ofa_slim.compress` trains and searches.

    Args:
        epochs: passes over the loader.
        learning_rate: the highest, with warm-up and linear decay; by default 5e-5 for a model of a known family of
            transformers and 1e-3 for others.
        widths: shares of heads, neurons and channels that sub-networks choose from; 1.0 is always one of them, and 0
            lets whole parts of known blocks go. By
            default 0.75, 0.5 and 0.25, or what is nearest to them in whole heads.
        depths: shares of blocks likewise, for a model with one stack of blocks.
        random_subnets: how many random sub-networks each batch trains beside the largest and the smallest.
        loss: ``loss(output, teacher output, batch)`` -> scalar, `batch` as the loader gave it. By default the outputs
            learn from the teacher's alone (`soft_loss`), and no label is needed.
        order: whether heads, neurons and channels are put in the order of Optimal Brain Surgeon first.
        order_rows: how many rows that looks at.
        candidates: how many sub-networks the search scores.
        checkpoint_every: steps between two checkpoints, where there is a directory.
        seed: of all randomness but the loader's.

    Raises: ConfigError for values that no training can have.
    """

    epochs: int = 3
    learning_rate: float | None = None
    widths: Sequence[float] | None = None
    depths: Sequence[float] = (1.0,)
    random_subnets: int = 2
    loss: Loss | None = None
    order: bool = True
    order_rows: int = 512
    candidates: int = 100
    checkpoint_every: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        """Checks the numbers."""
        least = {"epochs": 0, "random_subnets": 0, "order_rows": 64, "candidates": 1, "checkpoint_every": 1, "seed": 0}
        check_counts(self, least)
        check_training(self.learning_rate, self.loss)
        for name in ("widths", "depths"):
            shares = getattr(self, name)
            if name == "widths" and shares is None:
                continue
            check_many(shares, name, "shares", ConfigError)
            may_go = name == "widths"
            numbers = shares and all(isinstance(share, (int, float)) and 0 <= share <= 1 for share in shares)
            if not numbers or (0 in shares and not may_go):
                raise ConfigError(
                    f"{name} is {shares!r}; shares are {'at least' if may_go else 'above'} 0 and at most 1"
                )


def inputs_of(model: nn.Layer, batch: Any) -> Any:
    """A batch without its labels.

    Of a dictionary the entries that the model's forward takes, labels apart. Of a tuple or list as many as the forward
    needs, where there are so many or one more, which is then the labels.

    Raises: ConfigError for another number.
    """
    if isinstance(batch, Mapping):
        names = forward_signature(model).parameters
        return {name: value for name, value in batch.items() if name in names and name not in LABELS}
    if not isinstance(batch, (tuple, list)):
        return batch
    parameters = forward_signature(model).parameters.values()
    needed = sum(one.default is inspect.Parameter.empty and one.kind is one.POSITIONAL_OR_KEYWORD for one in parameters)
    if len(batch) not in (needed, needed + 1):
        raise ConfigError(
            f"the loader gives batches of {len(batch)}, and the forward of {type(model).__name__} needs {needed}: "
            "which of them are inputs? Let the loader give dictionaries by the names of the forward"
        )
    return tuple(batch[:needed])


def compress_with_training(
    model: nn.Layer,
    loader: Iterable[Any],
    eval_func: Evaluate,
    budget: Mapping[str, float],
    training: Training,
    directory: str | os.PathLike[str] | None,
    input_shapes: Any,
    input_dtypes: Any,
    latency: LatencyTable | None,
    engine: str,
    finish: Finish | None,
) -> Compressed:
    """A smaller model by a supernet; see `ofa_slim.compress`."""
    begun = Begun.of(model, loader, training, directory, input_shapes, input_dtypes)
    ofa, folder, original = begun.ofa, begun.folder, begun.original
    seconds: dict[str, float] = {}

    def score(candidate: Any) -> float | Mapping[str, float]:
        return eval_func(unwrap(candidate.model))

    settings = SearchConfig(
        candidates=training.candidates,
        seed=training.seed,
        latency=latency,
        engine=engine,
        input_shapes=begun.input_shapes,
        input_dtypes=begun.input_dtypes,
        calibration=begun.statistics,
        directory=None if folder is None else folder / "search",
        winners=int(Budget.of(budget).needs_latency),
    )
    scorer = Scorer(ofa.supernet, None)
    original_scores = scorer.exported(score, original)
    try:
        search = Search(ofa.supernet, score, budget, settings)  # refuses an impossible budget before it trains
    except BudgetError as error:
        if len(find_stacks(original)) == 1 and set(training.depths) == {1.0}:
            raise BudgetError(f"{error}; with training=Training(depths=(1.0, 0.5)) it may have fewer blocks") from None
        raise
    begun.train(training, seconds)
    with timed_step("search", seconds):
        found = search.run()
    best, whole = found.best, ofa.search_space.largest()
    small = begun.export(best.config)
    cut_score = None
    if finish is not None:
        cut_score = scorer.score(scorer.exported(score, small))
        with timed_step("finishing", seconds):
            example = _as_batch(begun.calibration.batches[0].example)
            finished(small, original, loader, partial(inputs_of, original), finish, folder, example)
    winner = found.winners[0] if found.winners else None
    report = TrainedReport(
        original_config=whole,
        config=best.config,
        original_costs=next(point.costs for point in found.points if point.kind == "original"),
        costs=best.costs,
        seconds=seconds,
        metric=found.metric,
        original_score=scorer.score(original_scores),
        score=scorer.score(scorer.exported(score, small)),
        cut_score=cut_score,
        front=found.front,
        latency_ms=None if winner is None else winner.latency_ms,
        original_latency_ms=None if winner is None else winner.original_latency_ms,
    )
    return Compressed(small, report, begun.samples())


@dataclass(frozen=True)
class Begun:
    """A supernet that is trained next, or whose training is done and restored.

    Attributes:
        original: the model, as it is.
        ofa: the supernet with the original as its teacher.
        feed: the loader's batches.
        calibration: the first of them.
        folder: where the training keeps its checkpoints; None for nowhere.
        input_shapes, input_dtypes: one row of inputs.
    """

    original: nn.Layer
    ofa: OFA
    feed: LoaderFeed
    calibration: Calibration
    folder: Path | None
    input_shapes: Any
    input_dtypes: Any

    @classmethod
    def of(
        cls,
        model: nn.Layer,
        loader: Iterable[Any],
        training: Training,
        directory: str | os.PathLike[str] | None,
        input_shapes: Any = None,
        input_dtypes: Any = None,
    ) -> Begun:
        """Makes the supernet; the arguments are those of `ofa_slim.compress`."""
        original = unwrap(model)
        require_plain(original, "compress")
        feed = LoaderFeed(loader, training.epochs)
        calibration = Calibration(original, _inputs(original, loader), training.order_rows)
        if input_shapes is None:
            input_shapes, input_dtypes = _one_row(calibration.batches[0].example)
        ofa = _supernet(original, training, _as_batch(calibration.batches[0].example))
        folder = None if directory is None else Path(directory)
        return cls(original, ofa, feed, calibration, folder, input_shapes, input_dtypes)

    @property
    def statistics(self) -> list[Any] | None:
        """Batches of inputs to estimate running statistics on; None where the model has none."""
        if not any(isinstance(layer, classes_with_statistics()) for layer in self.ofa.model.sublayers()):
            return None
        return [_as_batch(batch.example) for batch in self.calibration]

    def samples(self) -> Sequence[Sample]:
        """Inputs by name, as `write_formats` takes them."""
        return samples_of(self.original, self.calibration)

    def train(self, training: Training, seconds: dict[str, float]) -> None:
        """Orders and trains the supernet; goes on from a checkpoint, or restores the last."""
        if training.order:
            with timed_step("order", seconds):
                _put_in_order(self.ofa, self.calibration)
        with timed_step("training", seconds):
            _train(self.ofa, self.original, self.feed, training, self.folder)

    def export(self, config: SubnetConfig) -> nn.Layer:
        """A sub-network as a plain model, in eval mode; running statistics are estimated anew."""
        small = self.ofa.export(
            config=config,
            input_shapes=self.input_shapes,
            input_dtypes=self.input_dtypes,
            loader=self.statistics,
        )
        small.eval()
        return small


def _inputs(model: nn.Layer, loader: Iterable[Any]) -> Iterator[Any]:
    for batch in loader:
        yield inputs_of(model, batch)


def _as_batch(example: Example) -> Any:
    """A call as `OFA` and `recalibrate` take it."""
    return {**example.kwargs} if example.kwargs else example.args


def _one_row(example: Example) -> tuple[list[Any], list[Any]]:
    """Shapes and dtypes of one row of a call."""
    inputs = [*example.args, *([example.kwargs] if example.kwargs else [])]
    shapes = [_each(one, lambda tensor: [1, *tensor.shape[1:]]) for one in inputs]
    return shapes, [_each(one, lambda tensor: str(tensor.dtype).replace("paddle.", "")) for one in inputs]


def _each(given: Any, describe: Callable[[paddle.Tensor], Any]) -> Any:
    """What is said of an input, or of each entry of a dictionary of them."""
    if isinstance(given, Mapping):
        return {name: _each(value, describe) for name, value in given.items()}
    if not isinstance(given, paddle.Tensor):
        raise ConfigError(f"an input is a {type(given).__name__}, not a tensor: give input_shapes as for OFA.export")
    return describe(given)


def _supernet(original: nn.Layer, training: Training, example: Any) -> OFA:
    """The elastic copy of a model, with the original as its teacher."""
    model, teacher = copied(original), copied(original)
    if len(find_stacks(model)) == 1:
        distill = Teaching(teacher).config(model)
        return OFA(model, elastic_blocks(model, training.widths, training.depths), distill, example_inputs=example)
    if set(training.depths) != {1.0}:
        raise ConfigError(f"depths are {training.depths!r}, but {type(model).__name__} has no single stack of blocks")
    model = Convert(supernet(expand_ratio=sorted({1.0, *(training.widths or WIDTHS)}, reverse=True))).convert(model)
    return OFA(model, None, DistillConfig(teacher_model=teacher, mapping_layers=[]), example_inputs=example)


def _put_in_order(ofa: OFA, calibration: Calibration) -> None:
    """Puts what is kept longest first; the whole supernet computes the same."""
    model = unwrap(ofa.model)
    if find_stacks(model):
        reorder_by_obs(model, statistics(model, calibration).removals(model))
        return
    removals = channel_removals(model, ofa.search_space, calibration)
    for axis in ofa.search_space.axes:
        if axis.name in removals:
            reorder_axis(model, axis, removals[axis.name].order)


def _train(ofa: OFA, original: nn.Layer, feed: LoaderFeed, training: Training, folder: Path | None) -> None:
    """Trains the supernet, from its checkpoint where there is one."""
    settings = {name: value for name, value in vars(training).items() if name not in ("loss", "candidates", "finish")}
    options = RuntimeOptions(
        seed=training.seed,
        checkpoints=None if folder is None else folder / "checkpoints",
        recipe={**settings, "model": teacher_key(original).hex()},
        every=training.checkpoint_every,
    )
    distil(
        ofa,
        feed,
        partial(inputs_of, original),
        Sandwich(ofa.search_space, training.random_subnets),
        training.loss,
        Schedule(training.epochs, 0, learning_rate_of(ofa, training.learning_rate)),
        "supernet",
        options,
        np.random.default_rng(training.seed),
    )
