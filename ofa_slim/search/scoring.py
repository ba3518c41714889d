"""Scoring one sub-network with the caller's function."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import paddle
from paddle import nn

from ofa_slim.base.modes import eval_mode
from ofa_slim.errors import SearchError
from ofa_slim.export.recalibration import recalibrate
from ofa_slim.search.config import EvalFunc
from ofa_slim.supernet.handle import Supernet
from ofa_slim.supernet.spec import classes_with_statistics
from ofa_slim.supernet.subnet_config import SubnetConfig

SCORE = "score"

RunSubnet = Callable[[SubnetConfig], AbstractContextManager[nn.Layer]]
"""Runs a sub-network inside the block; yields what the caller's function is given: an object with the `model`."""


class Scorer:
    """Scores sub-networks of a supernet; it is in eval mode and without gradients meanwhile.

    Args:
        supernet: the supernet.
        run: runs one of its sub-networks; by default the model alone, as exported models are.
        metric: which of several scores counts; None: the first.
        calibration: batches to re-estimate batch-norm statistics with before each score; None: they stay.
        batches: how many of them; None: all.

    Attributes:
        metric: the name of the score, once one is known.
    """

    def __init__(
        self,
        supernet: Supernet,
        metric: str | None,
        calibration: Iterable[Any] | None = None,
        batches: int | None = None,
        run: RunSubnet | None = None,
    ) -> None:
        self._supernet = supernet
        self._run = self._alone if run is None else run
        self._calibration = calibration
        self._batches = batches
        self.metric = metric

    def __call__(self, function: EvalFunc, config: SubnetConfig) -> dict[str, float]:
        """Every score of a sub-network by name."""
        supernet = self._supernet
        with self._run(config) as subject, _quietly(subject):
            if self._calibration is not None:
                recalibrate(supernet.model, self._calibration, self._batches, supernet.forward_arguments(config))
            return self._named(function(subject), f"sub-network {config.to_json()}")

    def exported(self, function: EvalFunc, model: nn.Layer) -> dict[str, float]:
        """Every score of an exported model by name."""
        subject = Alone(model)
        with _quietly(subject):
            return self._named(function(subject), "the exported model")

    @contextmanager
    def _alone(self, config: SubnetConfig) -> Iterator[nn.Layer]:
        with self._supernet.using(config):
            yield Alone(self._supernet.model)

    def score(self, metrics: Mapping[str, float]) -> float:
        """The one that counts."""
        return metrics[str(self.metric)]

    def _named(self, found: Any, what: str) -> dict[str, float]:
        values = dict(found) if isinstance(found, Mapping) else {SCORE: found}
        if not values:
            raise SearchError(f"eval_func returned no score for {what}")
        metrics = {str(name): _number(value, str(name), what) for name, value in values.items()}
        if self.metric is None:
            self.metric = next(iter(metrics))
        if self.metric not in metrics:
            raise SearchError(f"metric {self.metric!r} is not among the scores of eval_func: {', '.join(metrics)}")
        return metrics


class Alone(nn.Layer):
    """A model without a teacher in the place of an `OFA`: what the caller's function is given for exported models.

    Attributes:
        model: the model, as `OFA.model` is the supernet.
    """

    def __init__(self, model: nn.Layer) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: Any, **kwargs: Any) -> Any:
        """The model's output; there is no teacher."""
        return self.model(*inputs, **kwargs)


@contextmanager
def statistics_kept(model: nn.Layer) -> Iterator[None]:
    """Whatever is estimated inside the block, the running statistics of batch norms are as before after it."""
    layers = [layer for layer in model.sublayers(include_self=True) if isinstance(layer, classes_with_statistics())]
    # They are among its parameters, those that do not train.
    tensors = [tensor for layer in layers for tensor in layer.parameters() if tensor.stop_gradient]
    before = [tensor.clone() for tensor in tensors]
    try:
        yield
    finally:
        for tensor, value in zip(tensors, before, strict=True):
            tensor.set_value(value)


@contextmanager
def _quietly(model: nn.Layer) -> Iterator[None]:
    with eval_mode(model), paddle.no_grad():
        yield


def _number(value: Any, name: str, what: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        raise SearchError(
            f"eval_func returned a {type(value).__name__} as {name!r}; it has to be a number, or a dictionary of them"
        ) from error
    if not math.isfinite(number):
        raise SearchError(f"eval_func returned {number} as {name!r} for {what}")
    return number
