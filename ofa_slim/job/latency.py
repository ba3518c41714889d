"""Latency of exported models in Paddle Inference, on the CPU."""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np

from ofa_slim.base.predictor import Predictor

WARM_UP = 3  # the first runs of a model set things up


def random_input(vocab_size: int, length: int, rng: np.random.Generator, rows: int = 1) -> dict[str, np.ndarray]:
    """Rows without padding."""
    ids = rng.integers(min(1000, vocab_size // 2), vocab_size, size=(rows, length), dtype=np.int64)
    return {"input_ids": ids, "token_type_ids": np.zeros_like(ids)}


def medians(models: Mapping[str, Predictor], inputs: Mapping[str, np.ndarray], rounds: int) -> dict[str, float]:
    """Median milliseconds of each model; they take turns, so that what else the machine does meets all."""
    times: dict[str, list[float]] = {name: [] for name in models}
    for number in range(WARM_UP + rounds):
        for name, model in models.items():
            start = time.perf_counter()
            model(inputs)
            if number >= WARM_UP:
                times[name].append(time.perf_counter() - start)
    return {name: 1000 * float(np.median(measured)) for name, measured in times.items()}
