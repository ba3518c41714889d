"""The winners of a search, exported, scored again and timed."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from paddle import nn

from ofa_slim.export.cut import export_subnet
from ofa_slim.export.subnet_files import save_subnet
from ofa_slim.measure import measure_latency
from ofa_slim.search.config import EvalFunc, SearchConfig
from ofa_slim.search.result import Point, SearchResult, Winner
from ofa_slim.search.scoring import Scorer
from ofa_slim.supernet.handle import Supernet
from ofa_slim.supernet.subnet_config import SubnetConfig

logger = logging.getLogger(__name__)

_FOLDER = "winners"


def chosen(result: SearchResult, count: int) -> list[Point]:
    """The best one, then those of the front that score next."""
    others = sorted(result.front, key=lambda point: -point.score)
    points = {point.config: point for point in (result.best, *others)}
    return list(points.values())[:count]


def export_winners(
    supernet: Supernet,
    eval_func: EvalFunc,
    scorer: Scorer,
    points: Sequence[Point],
    config: SearchConfig,
    timed: bool,
    directory: Path | None,
) -> list[Winner]:
    """Exports sub-networks, scores the exported models, and times them in turns with the original.

    Args:
        supernet: the supernet.
        eval_func: scores a model.
        scorer: calls it.
        points: the sub-networks.
        config: the inputs, and the batches that batch norms are estimated with.
        timed: whether to time them.
        directory: where models are written to; None for nowhere.
    """
    logger.info("exporting the best of %d sub-networks", len(points))
    models = [_exported(supernet, point.config, config) for point in points]
    scores = [scorer.score(scorer.exported(eval_func, model)) for model in models]
    original = _exported(supernet, supernet.space.original(), config) if timed else None
    folders: list[str | None] = [None] * len(points)
    if directory is not None:
        for number, model in enumerate(models):
            folders[number] = f"{_FOLDER}/{number + 1}"
            save_subnet(model, directory / _FOLDER / str(number + 1))
    engine = config.engine if config.latency is None else config.latency.about.engine
    winners = []
    for point, model, score, folder in zip(points, models, scores, folders, strict=True):
        winner = Winner(point, score, directory=folder)
        if original is not None:
            times = measure_latency(
                {"original": original, "own": model}, config.input_shapes, config.input_dtypes, engine
            )
            milliseconds = {name: latency.median for name, latency in times.items()}
            winner = replace(winner, latency_ms=milliseconds["own"], original_latency_ms=milliseconds["original"])
        winners.append(winner)
    return winners


def _exported(supernet: Supernet, config: SubnetConfig, how: SearchConfig) -> nn.Layer:
    loader: Iterable[Any] | None = how.calibration
    model = export_subnet(
        supernet,
        config,
        input_shapes=how.input_shapes,
        input_dtypes=how.input_dtypes,
        loader=loader,
        batches=how.calibration_batches,
    )
    model.eval()
    return model
