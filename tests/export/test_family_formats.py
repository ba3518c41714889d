"""Every format of a sub-network of every family, at tiny shapes."""

from __future__ import annotations

from pathlib import Path

import paddle
import pytest

from families import DECODERS, FAMILIES, each_family, inputs
from ofa_slim import OFA, Convert, dynabert_config, supernet
from ofa_slim.export.formats import write_formats
from releases import PADDLENLP_3

pytest.importorskip("onnxruntime")

pytestmark = pytest.mark.usefixtures("forked_models")


# Programs of the decoders are refused (but for one of PaddleNLP 3's LLaMA), and so is that of its RoFormer.
REFUSED = (*DECODERS, "roformer") if PADDLENLP_3 else DECODERS


@each_family([name for name in FAMILIES if not name.startswith(REFUSED)])
def test_every_format_computes_what_the_supernet_does(name: str, tmp_path: Path) -> None:
    ofa = OFA(Convert(supernet(expand_ratio=[1.0, 0.5])).convert(FAMILIES[name]()))
    ofa.eval()
    batch = inputs(name)
    config = ofa.subnet_config(dynabert_config(ofa, 0.5, 2 / 3))
    plain = ofa.export(config=config, input_shapes=[batch])
    samples = [
        {key: value.numpy() for key, value in inputs(name, rows, length, seed=length).items()}
        for rows, length in ((40, 5), (24, 12))
    ]
    with ofa.subnet(config), paddle.no_grad():
        record = write_formats(
            plain, tmp_path / "out", samples, reference=ofa.model, score=lambda run: 0.0,
            formats=("plain", "inference", "onnx", "onnx-int8", "onnx-int8-static"),
        )  # fmt: skip
    assert list(record["formats"]) == ["plain", "inference", "onnx", "onnx-int8", "onnx-int8-static"]
