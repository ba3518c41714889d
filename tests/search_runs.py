"""A search in a process of its own, for tests that kill it: ``python search_runs.py FOLDER [KILLED AFTER SO MANY]``."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import paddle

sys.path.insert(0, str(Path(__file__).parent))

from models import batch, bert, ofa_of
from ofa_slim import OFA, RunConfig
from ofa_slim.search import SearchConfig


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


def main(folder: Path, killed_after: int | None) -> None:
    ofa = encoder()
    score, scored = closeness(ofa), []

    def noted(ofa_model: Any) -> dict[str, float]:
        if killed_after is not None and len(list(folder.glob("*.scored"))) == killed_after:
            os.kill(os.getpid(), signal.SIGKILL)
        found = score(ofa_model)
        time.sleep(0.05)  # so that two processes overlap
        scored.append(ofa_model.net_config.to_json())
        (folder / f"{os.getpid()}-{len(scored)}.scored").touch()
        return found

    config = SearchConfig(candidates=30, warm_up=10, directory=folder / "search", winners=0, progress=False)
    result = ofa.search(noted, {"params_ratio": 0.8}, config)
    (folder / f"scored-{os.getpid()}.json").write_text(json.dumps(scored), encoding="utf-8")
    print(json.dumps([[dict(point.config), np.float64(point.score).hex()] for point in result.points]))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else None)
