"""Paddle Inference programs, opened and run."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from paddle import inference

MODEL_FILE = "model.json"
PARAMS_FILE = "model.pdiparams"


def open_predictor(folder: Path, onednn: bool = False) -> inference.Predictor:
    """Opens the files that `to_static` writes, on the CPU.

    Args:
        folder: holds ``model.json`` and ``model.pdiparams``.
        onednn: whether to use oneDNN's operators; the threads are then those that Paddle was told to use.
    """
    config = inference.Config(str(folder / MODEL_FILE), str(folder / PARAMS_FILE))
    config.disable_gpu()
    config.disable_glog_info()
    if onednn:
        config.enable_mkldnn()
        config.set_cpu_math_library_num_threads(threads())
    return inference.create_predictor(config)


def threads() -> int:
    """How many threads Paddle was told to use: `OMP_NUM_THREADS`, or one as is its default."""
    text = os.environ.get("OMP_NUM_THREADS", "1").split(",")[0]
    return int(text) if text.isdigit() and int(text) > 0 else 1


def run_predictor(predictor: inference.Predictor, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Runs a predictor on named inputs and returns its outputs in order."""
    for name in predictor.get_input_names():
        predictor.get_input_handle(name).copy_from_cpu(inputs[name])
    predictor.run()
    return [predictor.get_output_handle(name).copy_to_cpu() for name in predictor.get_output_names()]
