"""The formats that a model can be written in: one row each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import nn
from paddle.static import InputSpec

from ofa_slim.export.formats.int8 import quantise_dynamic, quantise_static
from ofa_slim.export.formats.onnx import ONNX_FILE, write_onnx
from ofa_slim.export.formats.proof import Sample
from ofa_slim.export.static import to_static
from ofa_slim.export.subnet_files import save_subnet


@dataclass
class Source:
    """The model to write, and the folders of the formats that are written.

    Attributes:
        model: a plain model in eval mode.
        spec: a named spec of each input.
        calibration: inputs that static quantisation measures ranges on.
        example: one call of the model, by name.
        done: the folder of each format that is there already.
    """

    model: nn.Layer
    spec: Sequence[InputSpec]
    calibration: Sequence[Sample]
    example: Mapping[str, paddle.Tensor]
    done: dict[str, Path] = field(default_factory=dict)


@dataclass(frozen=True)
class Format:
    """One format.

    Attributes:
        name: of it, and of its folder.
        opener: what reads it: "plain", or a key of `predict.ENGINES`.
        write: puts the files into a new folder.
        snippet: Python lines that load it from ``{folder}`` and run it on token ids.
        needs: the format that it is made from.
        exact: whether it computes the same as the model; else it is judged by the task's metric.
    """

    name: str
    opener: str
    write: Callable[[Source, Path], None]
    snippet: str
    needs: str | None = None
    exact: bool = True


def _plain(source: Source, folder: Path) -> None:
    save_subnet(source.model, folder, source.example)


def _inference(source: Source, folder: Path) -> None:
    to_static(source.model, folder, source.spec, source.example)


def _onnx(source: Source, folder: Path) -> None:
    write_onnx(source.done["inference"], folder / ONNX_FILE)


def _dynamic(source: Source, folder: Path) -> None:
    quantise_dynamic(source.done["onnx"] / ONNX_FILE, folder / ONNX_FILE, source.calibration)


def _static(source: Source, folder: Path) -> None:
    quantise_static(source.done["onnx"] / ONNX_FILE, folder / ONNX_FILE, source.calibration)


_LOAD_PLAIN = """from ofa_slim import load_subnet  # a plain Paddle model, which can be trained further
model = load_subnet("{folder}")
logits = model(paddle.to_tensor(input_ids), paddle.to_tensor(token_type_ids))"""

_LOAD_INFERENCE = """from paddle import inference
config = inference.Config("{folder}/model.json", "{folder}/model.pdiparams")
config.enable_mkldnn()
predictor = inference.create_predictor(config)
logits = predictor.run([paddle.to_tensor(input_ids), paddle.to_tensor(token_type_ids)])[0]"""

_LOAD_ONNX = """import onnxruntime
session = onnxruntime.InferenceSession("{folder}/model.onnx")
logits = session.run(None, {{"input_ids": input_ids, "token_type_ids": token_type_ids}})[0]"""

FORMATS: dict[str, Format] = {
    each.name: each
    for each in (
        Format("plain", "plain", _plain, _LOAD_PLAIN),
        Format("inference", "inference", _inference, _LOAD_INFERENCE),
        Format("onnx", "onnx", _onnx, _LOAD_ONNX, "inference"),
        Format("onnx-int8", "onnx", _dynamic, _LOAD_ONNX, "onnx", exact=False),
        Format("onnx-int8-static", "onnx", _static, _LOAD_ONNX, "onnx", exact=False),
    )
}


def spec_of_samples(samples: Sequence[Sample]) -> list[InputSpec]:
    """A spec per input: of any batch size, token ids of any length too, and otherwise of the sizes that vary."""
    specs = []
    for name, first in samples[0].items():
        shapes = np.array([sample[name].shape for sample in samples])
        whole = np.issubdtype(first.dtype, np.integer)
        sizes: list[Any] = [
            None if place == 0 or (whole and place == 1) or len(set(shapes[:, place].tolist())) > 1 else size
            for place, size in enumerate(first.shape)
        ]
        dtype: Any = first.dtype.name
        specs.append(InputSpec(sizes, dtype, name=name))
    return specs
