"""The costs of the sub-networks of a search: counted, and predicted from measured times where a budget limits time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ofa_slim.measure import CostModel, LatencyTable
from ofa_slim.measure.kept_tables import table_of
from ofa_slim.search.config import SearchConfig
from ofa_slim.search.cost_kinds import COSTS, CostSources, with_ratios
from ofa_slim.supernet.handle import Supernet
from ofa_slim.supernet.space import SearchSpace
from ofa_slim.supernet.subnet_config import SubnetConfig

TABLE = "latency.json"


class Costs:
    """The costs of a config by name, shares of the original's included; each is computed once.

    Args:
        counts: parameters, multiply-accumulates and bytes.
        table: measured times; None for none.
        original: the config that shares are relative to.
    """

    def __init__(self, counts: CostModel, table: LatencyTable | None, original: SubnetConfig) -> None:
        self._counts = counts
        self.table = table
        self._known: dict[SubnetConfig, dict[str, float]] = {}
        self._original = self._plain(original)

    def __call__(self, config: SubnetConfig) -> dict[str, float]:
        """``{"params": ..., "params_ratio": ..., ...}``."""
        if config not in self._known:
            self._known[config] = with_ratios(self._plain(config), self._original)
        return self._known[config]

    def _plain(self, config: SubnetConfig) -> dict[str, float]:
        sources = CostSources(self._counts(config), self.table)
        kinds = [kind for kind in COSTS.values() if self.table is not None or not kind.measured]
        return {kind.name: kind.value(sources, config) for kind in kinds}


def costs_of(
    supernet: Supernet, space: SearchSpace, config: SearchConfig, timed: bool, directory: Path | None
) -> Costs:
    """The costs of a supernet's sub-networks.

    Args:
        supernet: the supernet.
        space: its axes with the choices of the search.
        config: says at which inputs, and may have a table of times.
        timed: whether times are needed.
        directory: where a table is kept; None for nowhere.
    """
    counts = CostModel.of(supernet, config.input_shapes, config.input_dtypes)
    table = config.latency
    if table is not None:
        table.check(supernet, config.input_shapes, config.input_dtypes)
    elif timed:
        table = times_of(
            supernet, space, config.input_shapes, config.input_dtypes, config.engine, directory, config.progress
        )
    return Costs(counts, table, supernet.space.original())


def times_of(
    supernet: Supernet,
    space: SearchSpace,
    input_shapes: Any,
    input_dtypes: Any,
    engine: str,
    directory: Path | None,
    progress: bool = True,
) -> LatencyTable:
    """The table in a directory; where there is none that of an earlier run, or it is measured.

    Args:
        supernet: the supernet.
        space: its axes with the choices that are timed.
        input_shapes: as in `OFA.export`.
        input_dtypes: likewise.
        engine: as in `LatencyTable.build`.
        directory: where the table is kept; None for nowhere.
        progress: whether to show a bar.

    Raises: LatencyError for a table of other conditions.
    """
    file = None if directory is None else directory / TABLE
    if file is not None and file.is_file():
        table = LatencyTable.load(file)
        table.check(supernet, input_shapes, input_dtypes, engine)
        return table
    choices = {axis.name: axis.choices for axis in space.axes}
    table = table_of(supernet, input_shapes, input_dtypes, engine, choices, progress)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        table.save(file)
    return table
