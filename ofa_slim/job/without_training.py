"""A smaller model for a budget without training: some unlabelled rows, and about a minute."""

from __future__ import annotations

import copy
import json
import logging
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paddle import nn

from ofa_slim.base.files import atomic_file
from ofa_slim.base.unwrap import unwrap
from ofa_slim.closed_form import (
    Calibration,
    SubLayerError,
    allocate,
    check_budget,
    curve_sizes,
    mean_divergence,
    measure_curves,
    outputs_of,
    reorder_by_obs,
    repair,
    statistics,
)
from ofa_slim.errors import ConfigError, SearchError
from ofa_slim.export.cut import export_subnet
from ofa_slim.export.subnet_files import save_subnet
from ofa_slim.measure import LatencyTable
from ofa_slim.measure.cost import CostModel
from ofa_slim.search.budget import Budget
from ofa_slim.search.cost_kinds import COSTS
from ofa_slim.search.costs import Costs
from ofa_slim.supernet.convert import Convert, supernet
from ofa_slim.supernet.discover import full_space
from ofa_slim.supernet.handle import Supernet, require_plain
from ofa_slim.supernet.subnet_config import SubnetConfig

logger = logging.getLogger(__name__)

REPORT = "report.json"


@dataclass(frozen=True)
class CompressionReport:
    """What compression without training chose, and how far the smaller model is from the original.

    Attributes:
        original_config, config: the size of every axis, before and after.
        original_costs, costs: by name, before and after; see `search.budget.KEYS`.
        rows: how many calibration rows were used.
        divergence: of the outputs from the original's on the calibration rows, mean per row (Kullback-Leibler in
            nats; of one output the squared difference): of the model as it was cut, and repaired.
        errors: of the residual stream after every sub-layer, before and after its repair.
        seconds: by step.
    """

    original_config: SubnetConfig
    config: SubnetConfig
    original_costs: Mapping[str, float]
    costs: Mapping[str, float]
    rows: int
    divergence: tuple[float, float]
    errors: Sequence[SubLayerError]
    seconds: Mapping[str, float]

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON has it."""
        return {
            "original_config": dict(self.original_config),
            "config": dict(self.config),
            "original_costs": dict(self.original_costs),
            "costs": dict(self.costs),
            "rows": self.rows,
            "divergence": {"cut": self.divergence[0], "repaired": self.divergence[1]},
            "errors": [{"matrix": one.matrix, "before": one.before, "after": one.after} for one in self.errors],
            "seconds": dict(self.seconds),
        }

    def __str__(self) -> str:
        """The report as lines of text."""
        lines = [
            f"{kind.name}: {kind.text(self.original_costs[kind.name])} -> {kind.text(self.costs[kind.name])} "
            f"({100 * self.costs[kind.ratio]:.1f} %)"
            for kind in COSTS.values()
            if kind.name in self.costs
        ]
        lines += [f"{axis}: {size} -> {self.config[axis]}" for axis, size in self.original_config.items()]
        lines.append(
            f"divergence of the outputs on {self.rows} rows: {self.divergence[0]:.4g} as cut, "
            f"{self.divergence[1]:.4g} repaired"
        )
        return "\n".join(lines)


@dataclass(frozen=True)
class Compressed:
    """A smaller model and what is known of it.

    Attributes:
        model: of Paddle's own layer classes, in eval mode.
        report: sizes, costs and errors.
    """

    model: nn.Layer
    report: CompressionReport

    def save(self, directory: str | os.PathLike[str]) -> None:
        """Writes the model as `save_subnet` does, and ``report.json`` beside it.

        Args:
            directory: as in `save_subnet`; `load_subnet` reads it.

        Raises: ExportError as `save_subnet`.
        """
        save_subnet(self.model, directory)
        with atomic_file(Path(directory) / REPORT) as aside:
            aside.write_text(json.dumps(self.report.to_dict(), indent=2) + "\n", encoding="utf-8")


def compress(
    model: nn.Layer,
    loader: Iterable[Any],
    budget: Mapping[str, float],
    training: None = None,
    *,
    rows: int | None = 2048,
    curve_rows: int = 512,
    input_shapes: Any = None,
    input_dtypes: Any = None,
    latency: LatencyTable | None = None,
) -> Compressed:
    """A smaller model within a budget, from unlabelled rows and without training.

    Heads and neurons are removed in the order of Optimal Brain Surgeon, the sizes of all sub-layers are chosen by what
    the model's outputs lose when each is cut, and the output matrices are refitted by least squares from the bottom up.

    Args:
        model: a fine-tuned model of a known family; it stays as it is.
        loader: batches of inputs without labels: dictionaries, tuples or single tensors; see
            `closed_form.Calibration`. Some hundred rows already help, 2,048 are enough.
        budget: one limit: ``{"latency_ratio": 0.5}``, ``{"latency_ms": 8.0}``, ``{"flops_ratio": 0.5}``,
            ``{"params_ratio": 0.5}`` or another of `search.budget.KEYS`.
        training: only None: a job with training is a recipe, which ``ofa-slim compress`` runs.
        rows: how many rows to use at most.
        curve_rows: how many of them measure what each cut loses.
        input_shapes: of the call whose cost counts, as in `OFA.export`; may be left out for models that begin with an
            embedding.
        input_dtypes: likewise.
        latency: times of this model's blocks; measured where a budget of time needs them and they are left out.

    Returns: the smaller model, with a report.

    Raises: SearchError for a budget without or with more than one limit; CalibrationError for rows that the model does
        not run on, models without known blocks and budgets below the smallest sizes; ExportError for a supernet.
    """
    if training is not None:
        raise ConfigError(f"training is {training!r}; only None is possible, as ofa-slim compress trains by a recipe")
    key, most, timed = _limit(budget)
    original = unwrap(model)
    require_plain(original, "compress")
    seconds: dict[str, float] = {}
    calibration = Calibration(original, loader, rows)
    with _timed("statistics", seconds):
        found = statistics(original, calibration)
    whole = Supernet(Convert(supernet(expand_ratio=[1.0])).convert(copy.deepcopy(original)), full_space(original))
    if timed and latency is None:
        with _timed("latency table", seconds):
            sizes = {part.axis.name: curve_sizes(part.axis.size) for part in found.parts}
            latency = LatencyTable.build(
                whole, input_shapes=input_shapes, input_dtypes=input_dtypes, choices=sizes, progress=False
            )
    full = whole.space.largest()
    costs = Costs(CostModel.of(whole, input_shapes, input_dtypes), latency, full)

    def cost_of(sizes: Mapping[str, int]) -> float:
        return costs(whole.space.complete(sizes))[key]

    check_budget({part.axis.name: curve_sizes(part.axis.size)[0] for part in found.parts}, cost_of, most)
    with _timed("order", seconds):
        removals = found.removals(original)
        reorder_by_obs(whole.model, removals)
    with _timed("curves", seconds):
        curves = measure_curves(original, calibration.part(curve_rows), found, removals)
    with _timed("allocation", seconds):
        config = whole.space.complete(allocate(curves, cost_of, most))
    small = export_subnet(whole, config, input_shapes=input_shapes, input_dtypes=input_dtypes)
    wanted = outputs_of(original, calibration)
    before = mean_divergence(wanted, outputs_of(small, calibration), calibration)
    with _timed("repair", seconds):
        errors = repair(small, original, calibration)
    after = mean_divergence(wanted, outputs_of(small, calibration), calibration)
    small.eval()
    report = CompressionReport(
        full, config, costs(full), costs(config), calibration.rows, (before, after), errors, seconds
    )
    return Compressed(small, report)


def _limit(budget: Mapping[str, float]) -> tuple[str, float, bool]:
    """The one limit of a budget, and whether it needs measured times."""
    if not isinstance(budget, Mapping) or len(budget) != 1:
        raise SearchError(f"budget: one limit is needed, such as {{'latency_ratio': 0.5}}; it is {budget!r}")
    allowed = Budget.of(budget)
    ((key, most),) = allowed.limits.items()
    return key, most, allowed.needs_latency


@contextmanager
def _timed(step: str, seconds: dict[str, float]) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[step] = time.perf_counter() - start
    logger.info("%s took %.1f s", step, seconds[step])
