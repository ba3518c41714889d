"""A smaller model for a budget without training: some unlabelled rows, and about a minute."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import nn

from ofa_slim.base.copies import copied
from ofa_slim.base.modes import forward_signature
from ofa_slim.base.unwrap import unwrap
from ofa_slim.closed_form import (
    Calibration,
    curve_sizes,
    mean_divergence,
    measure_curves,
    outputs_of,
    reorder_by_obs,
    repair,
    statistics,
    without_labels,
)
from ofa_slim.errors import CalibrationError, SearchError
from ofa_slim.export.cut import export_subnet
from ofa_slim.job.compressed import ClosedFormReport, Compressed
from ofa_slim.job.distilling import Finish, finished
from ofa_slim.job.trials import at_each_depth, best_learner
from ofa_slim.measure import LatencyTable
from ofa_slim.measure.cost import CostModel
from ofa_slim.search.budget import Budget
from ofa_slim.search.costs import Costs, times_of
from ofa_slim.supernet.convert import Convert, supernet
from ofa_slim.supernet.discover import full_space
from ofa_slim.supernet.handle import Supernet, require_plain
from ofa_slim.train.feeds import LoaderFeed

logger = logging.getLogger(__name__)

_SAMPLE_ROWS = 256


def compress_without_training(
    model: nn.Layer,
    loader: Iterable[Any],
    budget: Mapping[str, float],
    rows: int | None,
    curve_rows: int,
    input_shapes: Any,
    input_dtypes: Any,
    latency: LatencyTable | None,
    engine: str,
    omit: bool,
    finish: Finish | None,
    directory: str | os.PathLike[str] | None,
    trials: Finish | None = None,
) -> Compressed:
    """A smaller model by closed forms; see `ofa_slim.compress`. `trials` says how sizes are tried, else `finish`."""
    trials = finish if trials is None else trials
    limits = _limits(budget)
    original = unwrap(model)
    require_plain(original, "compress")
    if finish is not None:
        LoaderFeed(loader, finish.epochs)  # refuses one that cannot be gone through again
    seconds: dict[str, float] = {}
    folder = None if directory is None else Path(directory)
    calibration = Calibration(original, loader, rows)
    with timed_step("statistics", seconds):
        found = statistics(original, calibration)
    whole = Supernet(Convert(supernet(expand_ratio=[1.0])).convert(copied(original)), full_space(original))
    sizes = {part.axis.name: curve_sizes(part.axis, omit) for part in found.parts}
    if limits.needs_latency and latency is None:
        with timed_step("latency table", seconds):
            space = whole.space.with_choices(sizes)
            latency = times_of(whole, space, input_shapes, input_dtypes, engine, folder, progress=False)
    full = whole.space.largest()
    costs = Costs(CostModel.of(whole, input_shapes, input_dtypes), latency, full)

    def share_of(sizes: Mapping[str, int]) -> float:
        """How much of the budget sizes use, of the limit that they use most of."""
        config = whole.space.complete(sizes)
        return 1 + limits.violation(config, costs(config))

    smallest = {name: choices[0] for name, choices in sizes.items()}
    if share_of(smallest) > 1:
        has = costs(whole.space.complete(smallest))
        words = ", ".join(f"{key} {has[key]:.4g}" for key in limits.limits)
        raise CalibrationError(f"budget: the smallest sizes have {words}, more than the budget of {limits.describe()}")
    with timed_step("order", seconds):
        removals = found.removals(original)
        reorder_by_obs(whole.model, removals)
    with timed_step("curves", seconds):
        curves = measure_curves(original, calibration.part(curve_rows), found, removals, omit=omit)
    with timed_step("allocation", seconds):
        sizes_found = at_each_depth(curves, found.parts, share_of, 1.0)
    configs = [whole.space.complete(one) for one in sizes_found]
    config = configs[0]
    if trials is not None and trials.trial_steps and len(configs) > 1:
        with timed_step("trials", seconds):
            config = best_learner(whole, configs, original, calibration, loader, trials, folder)
    small = export_subnet(whole, config, input_shapes=input_shapes, input_dtypes=input_dtypes)
    wanted = outputs_of(original, calibration)
    before = mean_divergence(wanted, outputs_of(small, calibration), calibration)
    with timed_step("repair", seconds):
        errors = repair(small, original, calibration)
    divergences = [before, mean_divergence(wanted, outputs_of(small, calibration), calibration)]
    if finish is not None:
        with timed_step("finishing", seconds):
            finished(small, original, loader, without_labels, finish, folder)
        divergences.append(mean_divergence(wanted, outputs_of(small, calibration), calibration))
    small.eval()
    report = ClosedFormReport(
        full, config, costs(full), costs(config), seconds, calibration.rows, tuple(divergences), errors
    )
    return Compressed(small, report, samples_of(original, calibration))


def _limits(budget: Mapping[str, float]) -> Budget:
    if not isinstance(budget, Mapping) or not budget:
        raise SearchError(f"budget: limits are needed, such as {{'latency_ratio': 0.5}}; it is {budget!r}")
    return Budget.of(budget)


def samples_of(model: nn.Layer, calibration: Calibration) -> list[dict[str, np.ndarray]]:
    """The inputs of the first batches by name, as `write_formats` takes them: 256 rows at most, whole batches."""
    names = list(forward_signature(model).parameters)
    found: list[dict[str, np.ndarray]] = []
    rows = 0
    for batch in calibration:
        if found and rows + batch.rows > _SAMPLE_ROWS:
            break
        by_name = {**dict(zip(names, batch.example.args, strict=False)), **batch.example.kwargs}
        found.append({name: value.numpy() for name, value in by_name.items() if isinstance(value, paddle.Tensor)})
        rows += batch.rows
    return found


@contextmanager
def timed_step(step: str, seconds: dict[str, float]) -> Iterator[None]:
    """Notes under its name how long a step took."""
    start = time.perf_counter()
    yield
    seconds[step] = time.perf_counter() - start
    logger.info("%s took %.1f s", step, seconds[step])
