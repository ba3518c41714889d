"""Runs a written model from its files, in a process of its own: ``python reader.py JOB``.

JOB is a JSON file with the format, the folder, and the files of the inputs and of the outputs. It needs what serves the
format and nothing else: Paddle, or ONNX Runtime; `ofa_slim` is imported for the plain format alone. So what it computes
is what a user gets who only has the files.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Inputs = dict[str, np.ndarray]
Run = Callable[[Inputs], list[np.ndarray]]


def open_plain(folder: Path, build: str | None) -> Run:
    """A plain Paddle model; `build` is ``module:function`` of what makes one that PaddleNLP cannot."""
    import paddle

    from ofa_slim.export.subnet_files import load_subnet

    module, _, function = (build or "").partition(":")
    model = load_subnet(folder, None if build is None else getattr(importlib.import_module(module), function)())

    def run(inputs: Inputs) -> list[np.ndarray]:
        with paddle.no_grad():
            output = model(**{name: paddle.to_tensor(value) for name, value in inputs.items()})
        return [tensor.numpy() for tensor in tensors_of(output, paddle.Tensor)]

    return run


def open_inference(folder: Path, build: str | None) -> Run:
    """Paddle Inference."""
    from paddle import inference

    config = inference.Config(str(folder / "model.json"), str(folder / "model.pdiparams"))
    config.disable_gpu()
    config.disable_glog_info()
    off = folder / "passes_off.json"
    for name in json.loads(off.read_text(encoding="utf-8")) if off.is_file() else ():
        config.delete_pass(name)
    predictor = inference.create_predictor(config)

    def run(inputs: Inputs) -> list[np.ndarray]:
        for name in predictor.get_input_names():
            predictor.get_input_handle(name).copy_from_cpu(inputs[name])
        predictor.run()
        return [predictor.get_output_handle(name).copy_to_cpu() for name in predictor.get_output_names()]

    return run


def open_onnx(folder: Path, build: str | None) -> Run:
    """ONNX Runtime, on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    names = [wanted.name for wanted in session.get_inputs()]
    return lambda inputs: list(session.run(None, {name: inputs[name] for name in names}))


def tensors_of(output: Any, kind: type) -> list[Any]:
    """The tensors of an output, in order, however they are nested."""
    if isinstance(output, kind):
        return [output]
    parts = output.values() if isinstance(output, dict) else output if isinstance(output, (list, tuple)) else ()
    return [tensor for part in parts for tensor in tensors_of(part, kind)]


OPENERS: dict[str, Callable[[Path, str | None], Run]] = {
    "plain": open_plain,
    "inference": open_inference,
    "onnx": open_onnx,
}


def write_samples(file: Path, samples: Sequence[Mapping[Any, np.ndarray]]) -> None:
    """Keeps dictionaries of arrays in one file."""
    arrays = {f"{n}/{key}": value for n, sample in enumerate(samples) for key, value in sample.items()}
    np.savez(file, allow_pickle=False, **arrays)


def read_samples(file: Path) -> list[Inputs]:
    """The dictionaries of a file of `write_samples`, none of them empty."""
    samples: dict[int, Inputs] = {}
    with np.load(file) as arrays:
        for key in arrays.files:
            number, _, name = key.partition("/")
            samples.setdefault(int(number), {})[name] = arrays[key]
    return [samples[number] for number in sorted(samples)]


def main(file: str) -> None:
    """Runs every sample of a job."""
    job = json.loads(Path(file).read_text(encoding="utf-8"))
    sys.path[:0] = job["path"]
    run = OPENERS[job["opener"]](Path(job["folder"]), job["build"])
    samples = read_samples(Path(job["inputs"]))
    write_samples(Path(job["outputs"]), [dict(enumerate(run(sample))) for sample in samples])


if __name__ == "__main__":
    main(sys.argv[1])
