"""Latency of exported models in Paddle Inference, on the CPU."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import paddle.inference

WARM_UP = 3  # the first runs of a model set things up


class InferenceModel:
    """A model that `to_static` wrote, in Paddle Inference with oneDNN."""

    def __init__(self, folder: Path) -> None:
        """Loads it with as many threads as OMP_NUM_THREADS says, or one."""
        config = paddle.inference.Config(str(folder / "model.json"), str(folder / "model.pdiparams"))
        config.disable_glog_info()
        config.disable_gpu()
        config.enable_mkldnn()
        config.set_cpu_math_library_num_threads(threads())
        self._predictor = paddle.inference.create_predictor(config)

    def __call__(self, **inputs: np.ndarray) -> np.ndarray:
        """The logits, [batch, classes], for named inputs, int64 [batch, length]."""
        for name, value in inputs.items():
            self._predictor.get_input_handle(name).copy_from_cpu(value)
        self._predictor.run()
        name = self._predictor.get_output_names()[0]
        return np.asarray(self._predictor.get_output_handle(name).copy_to_cpu())


def threads() -> int:
    """How many threads Paddle was told to use."""
    text = os.environ.get("OMP_NUM_THREADS", "1").split(",")[0]
    return int(text) if text.isdigit() and int(text) > 0 else 1


def random_input(vocab_size: int, length: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """One row without padding."""
    ids = rng.integers(min(1000, vocab_size // 2), vocab_size, size=(1, length), dtype=np.int64)
    return {"input_ids": ids, "token_type_ids": np.zeros_like(ids)}


def medians(models: Mapping[str, InferenceModel], inputs: Mapping[str, np.ndarray], rounds: int) -> dict[str, float]:
    """Median milliseconds of each model; they take turns, so that what else the machine does meets all."""
    times: dict[str, list[float]] = {name: [] for name in models}
    for number in range(WARM_UP + rounds):
        for name, model in models.items():
            start = time.perf_counter()
            model(**inputs)
            if number >= WARM_UP:
                times[name].append(time.perf_counter() - start)
    return {name: 1000 * float(np.median(measured)) for name, measured in times.items()}
