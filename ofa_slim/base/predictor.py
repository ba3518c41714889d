"""Paddle Inference programs, opened and run on the device that Paddle uses."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import paddle
from paddle import inference

from ofa_slim.base.json_files import read_json
from ofa_slim.base.threads import threads, threads_kept
from ofa_slim.errors import ExportError

MODEL_FILE = "model.json"
PARAMS_FILE = "model.pdiparams"
GPU_POOL_MB = 100  # that a predictor takes at once; it takes more as it needs it
PASSES_FILE = "passes_off.json"
"""A list of the passes that miscompute a program; `to_static` writes it where there are any."""


def passes_off(folder: Path) -> list[str]:
    """The passes that miscompute the program in a folder; raises ExportError for a file that does not list them."""
    file = folder / PASSES_FILE
    try:
        names = read_json(file) if file.is_file() else []
    except ValueError as error:
        raise ExportError(f"{file} is not readable as JSON: {error}") from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ExportError(f"{file} is not a list of the names of passes")
    return names


class Predictor:
    """A program that `to_static` wrote, opened; the thread counts of the process stay as they are.

    Args:
        folder: contains ``model.json`` and ``model.pdiparams``.
        onednn: whether to use oneDNN's operators on a CPU, with as many threads as Paddle uses.
        device: such as ``"cpu"`` or ``"gpu:0"``; by default that of `paddle.device.get_device`, on which models train.

    Attributes:
        names: the names of its inputs.
        device: where it runs.
    """

    def __init__(self, folder: Path, onednn: bool = False, device: str | None = None) -> None:
        self.device = paddle.device.get_device() if device is None else device
        config = inference.Config(str(folder / MODEL_FILE), str(folder / PARAMS_FILE))
        kind, _, number = self.device.partition(":")
        if kind == "gpu":
            config.enable_use_gpu(GPU_POOL_MB, int(number or 0))
        else:
            config.disable_gpu()
        config.disable_glog_info()
        if onednn and kind == "cpu":
            config.enable_mkldnn()
            config.set_cpu_math_library_num_threads(threads())
        for name in passes_off(folder):
            config.delete_pass(name)
        with threads_kept():
            self._predictor = inference.create_predictor(config)
        self.names: list[str] = list(self._predictor.get_input_names())

    def __call__(self, inputs: Mapping[str, np.ndarray | paddle.Tensor]) -> list[np.ndarray]:
        """The outputs in order, for inputs by name."""
        # A handle keeps only a pointer, so the contiguous copies must live until the run is over.
        shared = {
            name: value.contiguous() if isinstance(value, paddle.Tensor) else value for name, value in inputs.items()
        }
        self.feed(shared)
        with threads_kept():
            self.run()
        names = self._predictor.get_output_names()
        return [np.asarray(self._predictor.get_output_handle(name).copy_to_cpu()) for name in names]

    def feed(self, inputs: Mapping[str, np.ndarray | paddle.Tensor]) -> None:
        """Sets the inputs of the next runs; tensors must be contiguous and stay alive until then."""
        for name in self.names:
            value, handle = inputs[name], self._predictor.get_input_handle(name)
            if isinstance(value, paddle.Tensor):
                handle.share_external_data(value)
            else:
                handle.copy_from_cpu(value)

    def run(self) -> None:
        """Runs the program once, to its end; afterwards the process has the thread counts that it sets."""
        self._predictor.run()
        if self.device.startswith("gpu"):
            paddle.device.synchronize(self.device)
