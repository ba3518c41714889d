"""Runs a written model from its files, in a process of its own: ``python reader.py JOB``.

JOB is a JSON file that `processes` writes. This file needs what serves the format and nothing else: Paddle, or ONNX
Runtime; `ofa_slim` is imported for the plain format alone. So what it computes, and how fast, is what a user gets who
only has the files.
"""

from __future__ import annotations

import importlib
import json
import os
import runpy
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

Inputs = dict[str, np.ndarray]
Run = Callable[[Inputs], Sequence[np.ndarray]]


def open_plain(folder: Path, build: str | None) -> Run:
    """A plain Paddle model; `build` makes one that PaddleNLP cannot."""
    from ofa_slim.export.subnet_files import load_subnet

    module, _, function = (build or "").partition(":")
    return layer_run(
        load_subnet(folder, None if build is None else getattr(importlib.import_module(module), function)())
    )


def layer_run(model: Any) -> Run:
    """A Paddle model called with arrays."""
    import paddle

    def run(inputs: Inputs) -> list[np.ndarray]:
        with paddle.no_grad():
            output = model(**{name: paddle.to_tensor(value) for name, value in inputs.items()})
        return [tensor.numpy() for tensor in _tensors(output, paddle.Tensor)]

    return run


def _tensors(output: Any, kind: type) -> Iterator[Any]:
    """The tensors of an output, in order, however they are nested."""
    if isinstance(output, kind):
        yield output
    else:
        parts = output.values() if isinstance(output, dict) else output if isinstance(output, (list, tuple)) else ()
        for part in parts:
            yield from _tensors(part, kind)


def write_samples(file: Path, samples: Sequence[Mapping[Any, np.ndarray]]) -> None:
    """Keeps dictionaries of arrays in one file."""
    arrays = {f"{n}/{key}": value for n, sample in enumerate(samples) for key, value in sample.items()}
    np.savez(file, **cast(dict[str, Any], arrays))  # NumPy 1 has no allow_pickle here, and would keep it as an array


def read_samples(file: Path) -> list[Inputs]:
    """The dictionaries of a file of `write_samples`, none of them empty."""
    samples: dict[int, Inputs] = {}
    with np.load(file) as arrays:
        for key in arrays.files:
            number, _, name = key.partition("/")
            samples.setdefault(int(number), {})[name] = arrays[key]
    return [samples[number] for number in sorted(samples)]


def main(file: str) -> None:
    """Runs every sample of a job once, or takes turns with other processes."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is not an answer
    job = json.loads(Path(file).read_text(encoding="utf-8"))
    sys.path[:0] = job["path"]
    if job["device"] is not None:
        import paddle

        paddle.device.set_device(job["device"])
    folder = Path(job["folder"])
    if job["opener"] == "plain":
        run = open_plain(folder, job["build"])
    else:
        run = runpy.run_path(job["predict"])["ENGINES"][job["opener"]](folder, job["threads"])
    samples = [{name: sample[name] for name in job["names"]} for sample in read_samples(Path(job["inputs"]))]
    outputs = [dict(enumerate(run(sample))) for sample in samples]
    if job["clock"] is None:
        write_samples(Path(job["outputs"]), outputs)
        return
    clock = runpy.run_path(job["clock"])
    clock["rest"]()
    print("[]", file=answers, flush=True)
    for line in sys.stdin:
        number, runs, seconds = json.loads(line)
        taken = clock["one_turn"](lambda sample=samples[number]: run(sample), runs, seconds)
        clock["rest"]()  # before another process has its turn
        print(json.dumps(taken), file=answers, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
