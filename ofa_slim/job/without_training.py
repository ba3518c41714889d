"""A smaller model for a budget without training: some unlabelled rows, and about a minute."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from paddle import nn

from ofa_slim.base.unwrap import unwrap
from ofa_slim.closed_form import (
    Calibration,
    SubLayerError,
    allocate,
    mean_divergence,
    measure_curves,
    outputs_of,
    reorder_by_obs,
    repair,
    statistics,
)
from ofa_slim.errors import SearchError
from ofa_slim.export.cut import export_subnet
from ofa_slim.measure import LatencyTable
from ofa_slim.measure.cost import CostModel
from ofa_slim.search.budget import Budget
from ofa_slim.search.costs import Costs
from ofa_slim.supernet.convert import Convert, supernet
from ofa_slim.supernet.discover import full_space
from ofa_slim.supernet.handle import Supernet
from ofa_slim.supernet.subnet_config import SubnetConfig

logger = logging.getLogger(__name__)


@dataclass
class WithoutTraining:
    """What compression without training chose, and what it knows of the result.

    Attributes:
        config: the size of every axis.
        original_costs, costs: before and after, by name; see `search.budget.KEYS`.
        divergence: of the outputs from the original's on the calibration rows, per row: of the model as it was cut,
            and repaired.
        errors: of the residual stream after every sub-layer, before and after its repair.
        seconds: by step.
    """

    config: SubnetConfig
    original_costs: Mapping[str, float]
    costs: Mapping[str, float]
    divergence: tuple[float, float] = (0.0, 0.0)
    errors: list[SubLayerError] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)


def compress_without_training(
    model: nn.Layer,
    loader: Iterable[Any],
    budget: Mapping[str, float],
    *,
    rows: int | None = 2048,
    curve_rows: int = 512,
    input_shapes: Any = None,
    input_dtypes: Any = None,
    latency: LatencyTable | None = None,
) -> tuple[nn.Layer, WithoutTraining]:
    """A smaller model within a budget, from unlabelled rows and without training.

    Heads and neurons are removed in the order of Optimal Brain Surgeon, the sizes of all sub-layers are chosen by what
    the model's outputs lose when each is cut, and the output matrices are refitted by least squares from the bottom up.

    Args:
        model: a fine-tuned model of a known family; it stays as it is.
        loader: batches of inputs without labels; see `closed_form.Calibration`.
        budget: one limit: ``{"latency_ms": 8.0}``, ``{"latency_ratio": 0.5}``, ``{"flops_ratio": 0.5}``,
            ``{"params": 15e6}`` or another of `search.budget.KEYS`.
        rows: how many rows to use at most.
        curve_rows: how many of them measure what each cut loses.
        input_shapes: of the call whose cost counts, as in `OFA.export`; may be left out for models that begin with an
            embedding.
        input_dtypes: likewise.
        latency: times of this model's blocks; measured where a budget of time needs them and they are left out.

    Returns: the smaller model, of Paddle's own layer classes; the report.

    Raises: SearchError for a budget without or with more than one limit; CalibrationError for rows that the model does
        not run on, models without known blocks and budgets below the smallest sizes.
    """
    allowed = Budget.of(budget)
    if len(allowed.limits) != 1:
        raise SearchError(
            f"budget: one limit is needed, such as {{'latency_ratio': 0.5}}; there are {len(allowed.limits)}"
        )
    ((key, most),) = allowed.limits.items()
    seconds: dict[str, float] = {}
    original = unwrap(model)
    calibration = Calibration(original, loader, rows)
    with _timed("statistics", seconds):
        found = statistics(original, calibration)
    with _timed("order", seconds):
        removals = found.removals(original)
        ordered = copy.deepcopy(original)
        reorder_by_obs(ordered, removals)
    with _timed("curves", seconds):
        curves = measure_curves(original, calibration.part(curve_rows), found, removals)
    Convert(supernet(expand_ratio=[1.0])).convert(ordered)
    whole = Supernet(ordered, full_space(ordered))
    if allowed.needs_latency and latency is None:
        with _timed("latency table", seconds):
            sizes = {curve.axis: curve.sizes for curve in curves}
            latency = LatencyTable.build(
                whole, input_shapes=input_shapes, input_dtypes=input_dtypes, choices=sizes, progress=False
            )
    full = whole.space.largest()
    costs = Costs(CostModel.of(whole, input_shapes, input_dtypes), latency, full)
    with _timed("allocation", seconds):
        config = whole.space.complete(allocate(curves, lambda sizes: costs(whole.space.complete(sizes))[key], most))
    small = export_subnet(whole, config, input_shapes=input_shapes, input_dtypes=input_dtypes)
    wanted = outputs_of(original, calibration)
    before = mean_divergence(wanted, outputs_of(small, calibration), calibration)
    with _timed("repair", seconds):
        errors = repair(small, original, calibration)
    after = mean_divergence(wanted, outputs_of(small, calibration), calibration)
    return small, WithoutTraining(config, costs(full), costs(config), (before, after), errors, seconds)


@contextmanager
def _timed(step: str, seconds: dict[str, float]) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[step] = time.perf_counter() - start
    logger.info("%s took %.1f s", step, seconds[step])
