"""8-bit ONNX models by ONNX Runtime's quantiser, after its fusions."""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ofa_slim.base.examples import TOLERANCE
from ofa_slim.base.threads import threads
from ofa_slim.errors import ExportError
from ofa_slim.export.formats.needs import needed
from ofa_slim.export.formats.predict import open_session
from ofa_slim.export.formats.proof import Sample

logger = logging.getLogger(__name__)

FLOAT = 1  # onnx.TensorProto.FLOAT: of what follows operators that shape inference does not know

# Tables among them. Not convolutions: with ranges found at each run they take longer than in 32 bits.
PRODUCTS = ("MatMul", "Gemm", "Attention", "Gather", "EmbedLayerNormalization")
WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")


# Weights use 7 of their 8 bits (`reduce_range`): processors without VNNI instructions add pairs of products in 16 bits,
# and with all 8 bits these sums can overflow (seen: scores off by 0.1 on an AVX2 processor). Source: ONNX Runtime's
# guide to quantisation, "When to use reduce-range".


def quantise_dynamic(file: Path, target: Path, samples: Sequence[Sample]) -> None:
    """Weights in 8 bits; the ranges of activations are found at each run. For models of matrix products.

    Args:
        file: an ONNX model with 32-bit weights.
        target: receives the 8-bit one.
        samples: inputs that the fused model is compared on.
    """
    quantization = needed("onnxruntime.quantization")
    with _quiet(), fused(file, samples) as graph:
        quantization.quantize_dynamic(
            str(graph),
            str(target),
            per_channel=True,
            weight_type=quantization.QuantType.QInt8,
            reduce_range=True,
            op_types_to_quantize=list(PRODUCTS),
            extra_options={"MatMulConstBOnly": True, "DefaultTensorType": FLOAT},
        )


def quantise_static(file: Path, target: Path, samples: Sequence[Sample]) -> None:
    """Weights and activations in 8 bits, with ranges that were measured on some inputs. For convolutions.

    Args:
        file: an ONNX model with 32-bit weights.
        target: receives the 8-bit one.
        samples: inputs that are like those to come.

    Raises: ExportError without samples.
    """
    if not samples:
        raise ExportError("calibration: static quantisation needs inputs to measure ranges on")
    quantization = needed("onnxruntime.quantization")
    with _quiet(), _folded(file) as graph:
        quantization.quantize_static(
            str(graph),
            str(target),
            _reader(quantization, samples),
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            reduce_range=True,
            op_types_to_quantize=list(WEIGHTED),
        )


@contextlib.contextmanager
def fused(file: Path, samples: Sequence[Sample]) -> Iterator[Path]:
    """A copy of a model after ONNX Runtime's fusions for transformers, where they find what they know.

    The fusions were made for BERT and take some other models for it (a RoFormer's embeddings, the shapes that a NeZha
    works out), so the fused model is run, and where it computes something else fewer are done, or none.

    Args:
        file: the model.
        samples: inputs to run it on; the first and the last are used.
    """
    with tempfile.TemporaryDirectory() as name:
        for without, options in _fusions():
            target = Path(name) / "fused.onnx"
            _fuse(file, target, options)
            if _same(file, target, [samples[0], samples[-1]]):
                break
            logger.info("ONNX Runtime's fusions change what this model computes, and are done without %s", without)
        else:
            target = file
        yield target


def _fusions() -> Iterator[tuple[str, Any]]:
    """Options of ONNX Runtime's optimiser, and what is given up where they do not suit a model.

    None joins a sum, or a bias, to the layer norm or the GELU after it: on CPUs the joined operators take longer than
    the two (``benchmarks/README.md``).
    """
    for embeddings, without in ((True, "that of embeddings"), (False, "any")):
        options = needed("onnxruntime.transformers.fusion_options").FusionOptions("bert")
        options.enable_skip_layer_norm = options.enable_bias_skip_layer_norm = options.enable_bias_gelu = False
        options.enable_embed_layer_norm = embeddings
        yield without, options


def _fuse(file: Path, target: Path, options: Any) -> None:
    needed("sympy")
    optimizer = needed("onnxruntime.transformers.optimizer")
    model = optimizer.optimize_model(str(file), model_type="bert", opt_level=0, optimization_options=options)
    model.save_model_to_file(str(target))


def _same(file: Path, other: Path, samples: Sequence[Sample]) -> bool:
    """Whether two ONNX models compute the same on some inputs; not where the second does not even run."""
    wanted = open_session(file, threads())
    try:
        found = open_session(other, threads())
        pairs = [
            pair
            for sample in samples
            for pair in zip(wanted.run(None, dict(sample)), found.run(None, dict(sample)), strict=True)
        ]
    except Exception as error:  # ONNX Runtime has a class of its own for every kind of failure
        logger.info("the fused model does not run: %s", str(error).splitlines()[0])
        return False
    return all(np.abs(one - two).max() <= TOLERANCE * max(1.0, float(np.abs(one).max())) for one, two in pairs)


@contextlib.contextmanager
def _folded(file: Path) -> Iterator[Path]:
    """A copy with batch norms folded into convolutions, and with the shapes that the quantiser asks for."""
    shape_inference = needed("onnxruntime.quantization.shape_inference")
    with tempfile.TemporaryDirectory() as name:
        target = Path(name) / "folded.onnx"
        shape_inference.quant_pre_process(str(file), str(target), skip_symbolic_shape=True)
        yield target


def _reader(quantization: Any, samples: Sequence[Sample]) -> Any:
    class Reader(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self._samples = iter(samples)

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next((dict(sample) for sample in self._samples), None)

    return Reader()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hides the quantiser's advice on the root logger, which is meant for the author of the graph."""
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(before)
