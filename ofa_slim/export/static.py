"""`to_static`: a plain model as Paddle Inference files."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import paddle
from paddle import nn
from paddle.static import InputSpec

from ofa_slim.base.examples import Example, compare, random_example
from ofa_slim.base.input_types import as_type
from ofa_slim.base.modes import eval_mode, forward_signature, forwards_kept
from ofa_slim.base.predictor import MODEL_FILE, PASSES_FILE, Predictor
from ofa_slim.base.quiet import quiet_translation
from ofa_slim.errors import ExportError
from ofa_slim.export.subnet_files import replacing
from ofa_slim.supernet.handle import require_plain

_NAMED = ("input_ids", "token_type_ids")

# Passes that miscompute some models on Paddle 3.3.1: the first replaces a fused tanh by the ReLU after it (TinyBERT's
# head), the second drops the sum after a scaled product (MPNet's relative position biases).
_FAULTY_PASSES = ("fc_activation_fuse_pass", "operator_scale_onednn_fuse_pass")

logger = logging.getLogger(__name__)


def to_static(
    model: nn.Layer,
    directory: str | os.PathLike[str],
    input_spec: Sequence[InputSpec] | None = None,
    inputs: Mapping[str, paddle.Tensor] | None = None,
) -> None:
    """Writes a model for Paddle Inference: ``model.json`` and ``model.pdiparams``.

    The files are written aside, run by Paddle Inference at two shapes (or on `inputs`), compared with the model and
    only then put in place. The model itself is left as it is. Some Paddle Inference passes miscompute some models;
    ``passes_off.json`` beside the files names those to turn off for this one.

    Args:
        model: a plain model; a supernet is cut by `OFA.export` first.
        directory: where to; it must be new, empty, or an earlier save, which is replaced.
        input_spec: a named spec per input of the model's forward, unknown dimensions None. By default
            ``input_ids`` and ``token_type_ids``, int64 ``[batch, length]``, as far as the forward takes them.
        inputs: tensors by name that it is run on in place of random ones, which not every model can take.

    Raises: ExportError for a supernet, a model whose inputs are not known, or files that do not compute what the
        model does; nothing is left behind then.
    """
    require_plain(model, "to_static")
    specs = _default_spec(model) if input_spec is None else list(input_spec)
    names = [spec.name for spec in specs if spec.name is not None]
    if len(set(names)) != len(specs):
        raise ExportError(f"input_spec: every input needs a name of its own, got {[spec.name for spec in specs]}")
    with replacing(directory, marker=MODEL_FILE) as aside, eval_mode(model):
        with forwards_kept(model), quiet_translation():
            program = paddle.jit.to_static(_ByName(model, names), input_spec=[specs], full_graph=True)
            try:
                paddle.jit.save(program, str(aside / "model"))
            except OSError:
                raise
            except Exception as error:  # whatever the model's forward raises while Paddle translates it
                raise ExportError(
                    f"to_static: Paddle cannot make a program of the forward of {type(model).__name__} with the sizes "
                    f"{[list(spec.shape) for spec in specs]} (None is any) ({type(error).__name__}: "
                    f"{_message(error)}); give an input_spec with fixed sizes, if its forward needs them"
                ) from error
        _check(model, _probes(model, specs, inputs), aside)


class _ByName(nn.Layer):
    """Calls a model with its inputs by name, so that the files have them in our order."""

    def __init__(self, model: nn.Layer, names: list[str]) -> None:
        super().__init__()
        self.model = model
        self.names = names
        self.eval()

    def forward(self, inputs: list[paddle.Tensor]) -> paddle.Tensor:
        """The model's output."""
        return self.model(**dict(zip(self.names, inputs)))  # noqa: B905  Paddle's translation of zip takes no strict


def _message(error: Exception) -> str:
    """What an error of Paddle's translation says after the code that it shows, without its advice."""
    lines = [line.strip() for line in str(error).splitlines()]
    return next((line for line in lines if "Error: " in line), lines[0] if lines else "")[:300]


def _default_spec(model: nn.Layer) -> list[InputSpec]:
    parameters = forward_signature(model).parameters
    specs = [InputSpec([None, None], "int64", name=name) for name in _NAMED if name in parameters]
    if not specs:
        raise ExportError(
            f"the inputs of {type(model).__name__} cannot be told from its forward; give input_spec=[InputSpec(...)]"
        )
    return specs


def _run(predictor: Predictor, probe: Example) -> list[np.ndarray]:
    """The outputs for a probe; raises ExportError where Paddle Inference cannot compute them."""
    try:
        return predictor({name: value.numpy() for name, value in probe.kwargs.items()})
    except Exception as error:  # Paddle raises many types, some without a word
        sizes = {name: list(value.shape) for name, value in probe.kwargs.items()}
        said = _message(error)
        raise ExportError(f"to_static: Paddle Inference cannot run the program on {sizes} ({said})") from error


def _check(model: nn.Layer, probes: Sequence[Example], folder: Path) -> None:
    """Runs the files; a known faulty pass that miscomputes them is turned off, in a file.

    Raises: ExportError where they compute something else even so.
    """
    expected = [probe.outputs(model) for probe in probes]
    first: ExportError | None = None
    for off in ((), *((name,) for name in _FAULTY_PASSES), _FAULTY_PASSES):
        if off:
            (folder / PASSES_FILE).write_text(json.dumps(off) + "\n", encoding="utf-8")
        try:
            for predictor in (Predictor(folder), Predictor(folder, onednn=True)):
                for probe, wanted in zip(probes, expected, strict=True):
                    found = _run(predictor, probe)
                    compare(wanted, [paddle.to_tensor(value) for value in found], "to_static")
        except ExportError as error:
            first = first or error
            continue
        if off:
            logger.warning(
                "Paddle Inference miscomputes this model with its pass %s; turn off the passes in %s: "
                "config.delete_pass(name) for each name",
                " and ".join(off),
                PASSES_FILE,
            )
        return
    raise first or ExportError("to_static: nothing was checked")


def _probes(model: nn.Layer, specs: Sequence[InputSpec], inputs: Mapping[str, paddle.Tensor] | None) -> list[Example]:
    dtypes = {spec.name: spec.dtype for spec in specs}
    if inputs is not None:
        return [Example(kwargs={name: _typed(name, value, dtypes.get(name)) for name, value in inputs.items()})]
    found = []
    for seed, unknown in enumerate(((2, 16), (3, 7))):
        shapes = {spec.name: _filled(spec.shape, unknown) for spec in specs}
        found.append(random_example(model, [shapes], [dtypes], seed=seed))
    return found


def _typed(name: str, value: paddle.Tensor, dtype: object) -> paddle.Tensor:
    """An input in the type of its spec; one that has no spec stays as it is."""
    if dtype is None or value.dtype == dtype:
        return value
    return paddle.to_tensor(as_type(name, value.numpy(), str(dtype).removeprefix("paddle.")))


def _filled(shape: Sequence[int | None], unknown: Sequence[int]) -> list[int]:
    fill = iter([*unknown, *[2] * len(shape)])
    return [next(fill) if size is None or size < 0 else size for size in shape]
