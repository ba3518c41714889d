"""What `ofa_slim.compress` returns: a smaller model, and a report of what was chosen."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from paddle import nn

from ofa_slim.base.files import atomic_file
from ofa_slim.closed_form import SubLayerError
from ofa_slim.export.formats import write_formats
from ofa_slim.export.formats.proof import Sample
from ofa_slim.export.subnet_files import save_subnet
from ofa_slim.search.cost_kinds import COSTS
from ofa_slim.search.result import Point
from ofa_slim.supernet.subnet_config import SubnetConfig

REPORT = "report.json"

_STATES = ("cut", "repaired", "finished")


@dataclass(frozen=True)
class CompressionReport:
    """What was chosen.

    Attributes:
        original_config, config: the size of every axis, before and after.
        original_costs, costs: by name, before and after; see `search.budget.KEYS`.
        seconds: by step.
    """

    original_config: SubnetConfig
    config: SubnetConfig
    original_costs: Mapping[str, float]
    costs: Mapping[str, float]
    seconds: Mapping[str, float]

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON has it."""
        return {
            "original_config": dict(self.original_config),
            "config": dict(self.config),
            "original_costs": dict(self.original_costs),
            "costs": dict(self.costs),
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
        return "\n".join(
            lines + [f"{axis}: {size} -> {self.config[axis]}" for axis, size in self.original_config.items()]
        )


@dataclass(frozen=True)
class ClosedFormReport(CompressionReport):
    """What compression without training chose, and how far the smaller model is from the original.

    Attributes:
        rows: how many calibration rows were used.
        divergence: of the outputs from the original's on the calibration rows, mean per row (Kullback-Leibler in
            nats; of one output the squared difference): of the model as it was cut, repaired, and where it then
            trained alone also after that.
        errors: of the residual stream after every sub-layer, before and after its repair.
    """

    rows: int
    divergence: tuple[float, ...]
    errors: Sequence[SubLayerError]

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON has it."""
        return {
            **super().to_dict(),
            "rows": self.rows,
            "divergence": dict(zip(_STATES, self.divergence, strict=False)),
            "errors": [{"matrix": one.matrix, "before": one.before, "after": one.after} for one in self.errors],
        }

    def __str__(self) -> str:
        """The report as lines of text."""
        states = zip(("as cut", *_STATES[1:]), self.divergence, strict=False)
        found = ", ".join(f"{value:.4g} {state}" for state, value in states)
        return f"{super().__str__()}\ndivergence of the outputs on {self.rows} rows: {found}"


@dataclass(frozen=True)
class TrainedReport(CompressionReport):
    """What a search of a trained supernet chose.

    Attributes:
        metric: the name of the score.
        original_score, score: of the original, and of the smaller model as it is returned.
        cut_score: of the smaller model before it trained alone; None where it did not.
        front: the scored sub-networks within the budget that no other beats in both score and cost.
        latency_ms, original_latency_ms: measured in turns, milliseconds; None where the budget has no time.
    """

    metric: str
    original_score: float
    score: float
    front: Sequence[Point]
    latency_ms: float | None = None
    original_latency_ms: float | None = None
    cut_score: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON has it."""
        return {
            **super().to_dict(),
            "metric": self.metric,
            "original_score": self.original_score,
            "score": self.score,
            "cut_score": self.cut_score,
            "latency_ms": self.latency_ms,
            "original_latency_ms": self.original_latency_ms,
            "front": [point.to_dict() for point in self.front],
        }

    def __str__(self) -> str:
        """The report as lines of text."""
        cut = "" if self.cut_score is None else f" ({self.cut_score:.4g} before it trained alone)"
        lines = [f"{self.metric}: {self.original_score:.4g} -> {self.score:.4g}{cut}"]
        if self.latency_ms is not None and self.original_latency_ms is not None:
            lines.append(f"measured latency: {self.original_latency_ms:.3g} ms -> {self.latency_ms:.3g} ms")
        return "\n".join([*lines, super().__str__()])


@dataclass(frozen=True)
class Compressed:
    """A smaller model and what is known of it.

    Attributes:
        model: of Paddle's own layer classes, in eval mode.
        report: sizes, costs, and scores or errors.
        samples: inputs of the loader, by which written formats are checked.
    """

    model: nn.Layer
    report: CompressionReport
    samples: Sequence[Sample] = field(default=(), repr=False)

    def save(self, directory: str | os.PathLike[str], formats: Sequence[str] = (), **settings: Any) -> None:
        """Writes the model, and ``report.json`` beside it.

        Args:
            directory: without formats as in `save_subnet`, and `load_subnet` reads it; with formats as in
                `write_formats`.
            formats: of `FORMATS`, such as ``["inference", "onnx"]``: each is written into a folder of its name, read
                back in a fresh process and compared with the model.
            settings: of `write_formats`, such as ``tokenizer=`` and ``samples=``, which the call's loader gave.

        Raises: ExportError as `save_subnet` and `write_formats`.
        """
        if formats:
            write_formats(self.model, directory, formats=formats, **{"samples": self.samples, **settings})
        else:
            save_subnet(self.model, directory, **settings)
        with atomic_file(Path(directory) / REPORT) as aside:
            aside.write_text(json.dumps(self.report.to_dict(), indent=2) + "\n", encoding="utf-8")
