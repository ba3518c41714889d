"""Random inputs for checking that two models compute the same, and the comparison itself."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import paddle
from paddle import nn

from ofa_slim.errors import ExportError

TOLERANCE = 1e-4
_DEFAULT_SHAPE = (2, 16)


@dataclass
class Probe:
    """One call of a model."""

    args: list[Any] = field(default_factory=list)
    kwargs: dict[str, Any] = field(default_factory=dict)

    @property
    def tensors(self) -> list[paddle.Tensor]:
        """Its inputs, in order."""
        return [*_tensors([self.args, self.kwargs], None)]

    def run(self, model: nn.Layer, **extra: Any) -> list[paddle.Tensor]:
        """The model's floating outputs in eval mode, in order; its mode is that of before."""
        with eval_mode(model), paddle.no_grad():
            return list(_tensors(model(*self.args, **self.kwargs, **extra)))


@contextmanager
def modes_kept(model: nn.Layer) -> Iterator[None]:
    """Whatever train or eval mode is set inside the block, each layer has its own behind it."""
    modes = [(layer, layer.training) for layer in model.sublayers(include_self=True)]
    try:
        yield
    finally:
        for layer, training in modes:
            layer.training = training


@contextmanager
def eval_mode(model: nn.Layer) -> Iterator[None]:
    """Eval mode inside the block, each layer's own mode behind it."""
    with modes_kept(model):
        model.eval()
        yield


@contextmanager
def forwards_kept(model: nn.Layer) -> Iterator[None]:
    """Whatever stands in for the forward of a layer inside the block, each layer has its own behind it.

    Paddle 3.0 leaves the translated forward on every layer that it has traced; later releases take it back.
    """
    layers = model.sublayers(include_self=True)
    before = [vars(layer).get("forward") for layer in layers]
    try:
        yield
    finally:
        for layer, forward in zip(layers, before, strict=True):
            if forward is not None:
                vars(layer)["forward"] = forward
            else:
                vars(layer).pop("forward", None)


def make_probe(
    model: nn.Layer, input_shapes: Any = None, input_dtypes: Any = None, seed: int = 0, **extra: Any
) -> Probe:
    """Random inputs for a model.

    Integers are random within the table of the embedding that reads them, the last row padded at its end;
    integers that no embedding reads are 0 or 1, floats are normal.

    Args:
        model: the model that will be called.
        input_shapes: one shape, a list of shapes, or dictionaries ``{name: shape}`` in place of any of them;
            unknown dimensions are None or -1. A tensor in place of a shape is used itself. None: ``[2, 16]`` for a
            model that begins with an embedding.
        input_dtypes: a dtype for all, a list, or dictionaries of the same form; int64 by default for a model
            that begins with an embedding, else float32.
        seed: of the random numbers.
        extra: what the model is given beside them when it is run to see which embedding reads which input.

    Raises: ExportError for shapes and dtypes that do not match each other.
    """
    embeds = any(isinstance(layer, nn.Embedding) for layer in model.sublayers(include_self=True))
    if input_shapes is None:
        if not embeds:
            raise ExportError("input_shapes is needed to check the exported model, e.g. [[1, 3, 32, 32]]")
        input_shapes = list(_DEFAULT_SHAPE)
    default = "int64" if embeds else "float32"
    shapes = (
        [input_shapes]
        if isinstance(input_shapes, (Mapping, paddle.Tensor)) or _is_shape(input_shapes)
        else list(input_shapes)
    )
    dtypes = _per_input(input_dtypes, len(shapes), default)
    rng = np.random.default_rng(seed)
    names = list(inspect.signature(model.forward).parameters)
    probe = Probe()
    for shape, dtype in zip(shapes, dtypes, strict=True):
        if not isinstance(shape, Mapping):
            probe.args.append(_random(shape, dtype, rng))
            continue
        given = {
            name: _random(part, dtype[name] if isinstance(dtype, Mapping) else dtype, rng)
            for name, part in shape.items()
        }
        if all(name in names for name in given):
            probe.kwargs.update(given)
        else:
            probe.args.append(given)
    kept = {id(tensor) for tensor in _tensors([*shapes], None)}
    _fit_to_embeddings(model, probe, rng, extra, kept)
    return probe


def compare(expected: Sequence[paddle.Tensor], found: Sequence[paddle.Tensor], what: str) -> float:
    """The largest difference between two models' outputs.

    Raises: ExportError where it is more than `TOLERANCE` x max(1, largest output), or shapes differ.
    """
    if [list(tensor.shape) for tensor in expected] != [list(tensor.shape) for tensor in found]:
        raise ExportError(
            f"{what}: outputs of shapes {[list(t.shape) for t in found]}, expected {[list(t.shape) for t in expected]}"
        )
    worst = 0.0
    for one, other in zip(expected, found, strict=True):
        a, b = np.asarray(one.astype("float64")), np.asarray(other.astype("float64"))
        difference = float(np.abs(a - b).max()) if a.size else 0.0
        limit = TOLERANCE * max(1.0, float(np.abs(a).max()) if a.size else 0.0)
        # Written so that a difference that is not a number counts as one that is too large.
        if not difference <= limit:
            raise ExportError(f"{what}: outputs differ by {difference:.3g}, more than {limit:.3g}; nothing was kept")
        worst = max(worst, difference)
    return worst


def _is_shape(value: Any) -> bool:
    return isinstance(value, Sequence) and all(entry is None or isinstance(entry, int) for entry in value)


def _per_input(dtypes: Any, count: int, default: str) -> list[Any]:
    if dtypes is None:
        return [default] * count
    if isinstance(dtypes, (list, tuple)):
        if len(dtypes) == 1:
            return list(dtypes) * count
        if len(dtypes) != count:
            raise ExportError(f"input_dtypes has {len(dtypes)} entries for {count} inputs")
        return list(dtypes)
    return [dtypes] * count


def _random(shape: Any, dtype: Any, rng: np.random.Generator) -> paddle.Tensor:
    if isinstance(shape, paddle.Tensor):
        return shape
    if not _is_shape(shape):
        raise ExportError(f"input_shapes: {shape!r} is not a shape")
    sizes = [2 if size is None or size < 0 else size for size in shape]
    name: Any = str(dtype).replace("paddle.", "")
    if "int" in name or name == "bool":
        return paddle.to_tensor(rng.integers(0, 2, sizes)).astype(name)
    return paddle.to_tensor(rng.standard_normal(sizes)).astype(name)


def _fit_to_embeddings(
    model: nn.Layer, probe: Probe, rng: np.random.Generator, extra: Mapping[str, Any], kept: Collection[int]
) -> None:
    """Fills each integer input that an embedding reads with random rows of its table, and padding.

    Args:
        model: as in `make_probe`.
        probe: the inputs.
        rng: of the rows.
        extra: as in `make_probe`.
        kept: ids of the inputs that stay as they are.
    """
    inputs = [tensor for tensor in _tensors([probe.args, probe.kwargs], floating=False) if id(tensor) not in kept]
    if not inputs:
        return
    read_by: dict[int, nn.Embedding] = {}

    def remember(layer: nn.Layer, given: Any) -> None:
        read_by[id(given[0])] = cast(nn.Embedding, layer)

    embeddings = [layer for layer in model.sublayers(include_self=True) if isinstance(layer, nn.Embedding)]
    hooks = [layer.register_forward_pre_hook(cast(Any, remember)) for layer in embeddings]
    try:
        probe.run(model, **extra)
    finally:
        for hook in hooks:
            hook.remove()
    pads = [layer.pad_token_id for layer in model.sublayers(include_self=True) if hasattr(layer, "pad_token_id")]
    largest = max((layer.weight.shape[0] for layer in embeddings), default=0)
    for tensor in inputs:
        embedding = read_by.get(id(tensor))
        if embedding is None:
            continue
        rows = embedding.weight.shape[0]
        values = rng.integers(0, rows, tensor.shape)
        if rows == largest and tensor.ndim > 1:
            pad = next((pad for pad in pads if isinstance(pad, int) and 0 <= pad < rows), 0)
            values = np.where(values == pad, (pad + 1) % rows, values)
            values[-1, ..., -(tensor.shape[-1] // 4) or tensor.shape[-1] :] = pad
        tensor.set_value(paddle.to_tensor(values).astype(tensor.dtype))


def _tensors(value: Any, floating: bool | None = True) -> Iterator[paddle.Tensor]:
    """The tensors in a nesting, those that are floating or those that are not; None: all."""
    if isinstance(value, paddle.Tensor):
        if floating is None or value.is_floating_point() == floating:
            yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item, floating)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item, floating)
