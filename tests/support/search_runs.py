"""Searches of a small supernet; `main` is for a process of its own, which tests kill."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import paddle

from models import batch, bert, ofa_of
from ofa_slim import OFA, RunConfig
from ofa_slim.search import SearchConfig, SearchResult

# The original and the uniform sub-networks are 8 of them; the regressor proposes some of the last.
QUICK: dict[str, Any] = {"progress": False, "candidates": 16, "warm_up": 10}


def encoder(depths: tuple[int, ...] = (2, 3)) -> OFA:
    """A small supernet, always with the same weights."""
    paddle.seed(5)
    return ofa_of(bert(layers=3), ratios=[1.0, 0.75, 0.5, 0.25], run_config=RunConfig(elastic_depth=list(depths)))


def closeness(ofa: OFA) -> Callable[[Any], dict[str, float]]:
    """Scores how little a sub-network differs from the whole model."""
    inputs = batch(4, 9)
    with ofa.subnet(ofa.search_space.largest()), paddle.no_grad():
        whole = ofa.model(*inputs)

    def score(ofa_model: Any) -> dict[str, float]:
        return {"closeness": -float((ofa_model.model(*inputs) - whole).abs().mean())}

    return score


def found(ofa: OFA, condition: Any = None, score: Any = None, **settings: Any) -> SearchResult:
    return ofa.search(score or closeness(ofa), condition, SearchConfig(**{**QUICK, "directory": None, **settings}))


def main(folder: Path, killed_after: int | None, result: str, slow: bool = False, storage: str | None = None) -> None:
    """Searches to the end, or until so many were scored; writes ``<result>.json`` and what this process scored.

    Args:
        slow: whether each score takes a while, so that two processes overlap.
        storage: a database in place of the file in the folder.
    """
    ofa = encoder()
    score, scored = closeness(ofa), []

    def noted(ofa_model: Any) -> dict[str, float]:
        if killed_after is not None and len(list(folder.glob("*.scored"))) >= killed_after:
            os.kill(os.getpid(), signal.SIGKILL)
        values = score(ofa_model)
        if slow:
            time.sleep(0.05)
        scored.append(ofa_model.net_config.to_json())
        (folder / f"{os.getpid()}-{len(scored)}.scored").touch()
        return values

    settings: dict[str, Any] = {"directory": folder / "search", "storage": storage, "candidates": 20, "winners": 0}
    answer = found(ofa, {"params_ratio": 0.8}, noted, **settings)
    (folder / f"scored-{os.getpid()}.json").write_text(json.dumps(scored), encoding="utf-8")
    points = [[dict(point.config), np.float64(point.score).hex()] for point in answer.points]
    (folder / f"{result}.json").write_text(json.dumps(points), encoding="utf-8")
