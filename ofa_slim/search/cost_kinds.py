"""The kinds of cost of a sub-network, one row each: budgets, reports, recipes and pictures read this table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ofa_slim.measure import Cost, LatencyTable
from ofa_slim.supernet.subnet_config import SubnetConfig


@dataclass(frozen=True)
class CostSources:
    """What the costs of a sub-network are read from.

    Attributes:
        counted: its parameters, multiply-accumulates and bytes.
        table: measured times; None where no budget needs them.
    """

    counted: Cost
    table: LatencyTable | None = None


@dataclass(frozen=True)
class CostKind:
    """One kind of cost.

    Attributes:
        name: in budgets and reports.
        value: the cost of a sub-network in base units.
        title: of an axis of a picture, the unit included.
        unit: in words, after numbers times `scale`.
        scale: from base units to `unit`.
        measured: whether it needs a table of measured times.
    """

    name: str
    value: Callable[[CostSources, SubnetConfig], float]
    title: str
    unit: str
    scale: float = 1.0
    measured: bool = False

    @property
    def ratio(self) -> str:
        """The name of this cost as a share of the original's."""
        return self.name.removesuffix("_ms").removesuffix("_mb") + "_ratio"

    def text(self, value: float) -> str:
        """A cost in words; counts below one unit as they are."""
        small = self.scale < 1 and self.scale * value < 1
        return f"{value:,.0f}" if small else f"{self.scale * value:.2f} {self.unit}"


def _latency(sources: CostSources, config: SubnetConfig) -> float:
    if sources.table is None:
        raise ValueError("latency_ms needs measured times")
    return sources.table.predict(config)


def _in_8_bits(sources: CostSources, config: SubnetConfig) -> float:
    """Megabytes of the weights as dynamic quantisation writes them: a byte for each number of a matrix."""
    return 1e-6 * (4 * sources.counted.params - 3 * sources.counted.matrix_params)


def _memory(sources: CostSources, config: SubnetConfig) -> float:
    return 1e-6 * (4 * sources.counted.params + sources.counted.working_bytes)


COSTS: dict[str, CostKind] = {
    kind.name: kind
    for kind in (
        CostKind("params", lambda has, config: has.counted.params, "parameters (millions)", "M", 1e-6),
        CostKind("size_mb", lambda has, config: 4e-6 * has.counted.params, "size of the weights (MB)", "MB"),
        CostKind("size_int8_mb", _in_8_bits, "size of the weights in 8 bits (MB)", "MB"),
        CostKind("memory_mb", _memory, "weights and the largest layer's data (MB)", "MB"),
        CostKind("flops", lambda has, config: has.counted.flops, "multiply-accumulates (millions)", "M", 1e-6),
        CostKind(
            "activation_bytes", lambda has, config: has.counted.activation_bytes, "activations (MiB)", "MiB", 2**-20
        ),
        CostKind("latency_ms", _latency, "latency (ms)", "ms", measured=True),
    )
}
KEYS = (*COSTS, *(kind.ratio for kind in COSTS.values()))
"""The keys of a budget: every cost, and its share of the original's."""

_BY_KEY = {key: kind for kind in COSTS.values() for key in (kind.name, kind.ratio)}


def kind_of(key: str) -> CostKind:
    """The cost that a key of a budget limits: ``latency_ms`` for ``latency_ratio``."""
    return _BY_KEY[key]


def with_size(costs: Mapping[str, float]) -> dict[str, float]:
    """Costs as reports have them, with ``size_mb`` also where the report is of an earlier version."""
    return {"size_mb": 4e-6 * costs["params"], **costs}


def with_ratios(costs: Mapping[str, float], original: Mapping[str, float]) -> dict[str, float]:
    """Costs, and their shares of those of the original model."""
    shares = {COSTS[name].ratio: value / original[name] if original[name] else 1.0 for name, value in costs.items()}
    return {**costs, **shares}
