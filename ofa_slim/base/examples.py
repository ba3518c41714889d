"""One call of a model: given or random inputs, and the comparison of what two models compute on them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import paddle
from paddle import nn
from paddle.static import InputSpec

from ofa_slim.base.checks import check_layer, check_many
from ofa_slim.base.modes import eval_mode, forward_signature
from ofa_slim.base.nested import tensors_in
from ofa_slim.errors import ConfigError, ExportError

TOLERANCE = 1e-4
_DEFAULT_SHAPE = (2, 16)
_DTYPES = (
    "bool", "int8", "int16", "int32", "int64", "uint8", "bfloat16", "float16", "float32", "float64", "complex64",
    "complex128",
)  # fmt: skip


@dataclass(frozen=True)
class Example:
    """One call of a model: its inputs by position and by name."""

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, model: nn.Layer, inputs: Any) -> Example:
        """The call that some inputs stand for.

        Args:
            model: says which names are inputs by name.
            inputs: a dictionary whose keys are all arguments of the model's forward, a tuple or list of inputs by
                position, or the only input.
        """
        if isinstance(inputs, Mapping) and all(name in forward_signature(model).parameters for name in inputs):
            return cls((), dict(inputs))
        return cls(tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,))

    @property
    def tensors(self) -> list[paddle.Tensor]:
        """Its inputs, in order."""
        return [*tensors_in([self.args, self.kwargs])]

    def call(self, model: nn.Layer, **extra: Any) -> Any:
        """The model's output in eval mode, without gradients; its mode is put back."""
        with eval_mode(model), paddle.no_grad():
            return model(*self.args, **{**self.kwargs, **extra})

    def outputs(self, model: nn.Layer, **extra: Any) -> list[paddle.Tensor]:
        """The floating-point tensors in the model's output, in order, in eval mode."""
        return [tensor for tensor in tensors_in(self.call(model, **extra)) if tensor.is_floating_point()]


def example_of(model: nn.Layer, inputs: Any, spec: InputSpec | Sequence[InputSpec] | None) -> Example | None:
    """The example that a user gave, as inputs or as specs of random ones; None where there is none.

    Raises: ConfigError where both were given, or a spec is not an `InputSpec`.
    """
    if inputs is not None and spec is not None:
        raise ConfigError("example_inputs and input_spec cannot both be given")
    if spec is None:
        return None if inputs is None else Example.of(model, inputs)
    if not isinstance(spec, InputSpec):
        check_many(spec, "input_spec", "InputSpec", ConfigError)
    specs = [spec] if isinstance(spec, InputSpec) else list(spec)
    for entry in specs:
        if not isinstance(entry, InputSpec):
            raise ConfigError(f"input_spec: {entry!r} is not an InputSpec")
    return random_example(model, [list(entry.shape) for entry in specs], [entry.dtype for entry in specs])


def random_example(
    model: nn.Layer, input_shapes: Any = None, input_dtypes: Any = None, seed: int = 0, **extra: Any
) -> Example:
    """Random inputs for a model.

    Integers are random within the table of the embedding that reads them, the last row padded at its end;
    integers that no embedding reads are 0 or 1, floats are normal.

    Args:
        model: the model that will be called.
        input_shapes: one shape, a list of shapes, or dictionaries ``{name: shape}`` in place of any of them: inputs by
            name, or a single input that is a dictionary where the model does not run otherwise. Unknown dimensions are
            None or -1. A tensor in place of a shape is used itself. None: ``[2, 16]`` for a model that begins with an
            embedding, shorter where its configuration has fewer places.
        input_dtypes: a dtype for all, a list, or dictionaries of the same form; int64 by default for a model
            that begins with an embedding, else float32.
        seed: of the random numbers.
        extra: what the model is given beside them when it is run to see which embedding reads which input.

    Raises: ExportError for shapes and dtypes that do not match each other, or that the model does not run on.
    """
    check_layer(model, "model", ExportError)
    embeds = any(isinstance(layer, nn.Embedding) for layer in model.sublayers(include_self=True))
    if input_shapes is None:
        if not embeds:
            raise ExportError("input_shapes is needed to check the exported model, e.g. [[1, 3, 32, 32]]")
        rows, length = _DEFAULT_SHAPE
        places = getattr(getattr(model, "config", None), "max_position_embeddings", None)
        # A rotary table gives no error beyond its last place, and nothing that two models agree on.
        input_shapes = [rows, min(length, places) if isinstance(places, int) and places > 0 else length]
    default = "int64" if embeds else "float32"
    if not isinstance(input_shapes, (Mapping, paddle.Tensor)):
        check_many(input_shapes, "input_shapes", "sizes such as [2, 16], or of such lists", ExportError)
    shapes = (
        [input_shapes]
        if isinstance(input_shapes, (Mapping, paddle.Tensor)) or _is_shape(input_shapes)
        else list(input_shapes)
    )
    dtypes = _per_input(input_dtypes, len(shapes), default)
    rng = np.random.default_rng(seed)
    names = list(forward_signature(model).parameters)
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    by_position: list[Any] = []
    for shape, dtype in zip(shapes, dtypes, strict=True):
        if not isinstance(shape, Mapping):
            args.append(_random(shape, dtype, rng))
            by_position.append(args[-1])
            continue
        given = {
            name: _random(part, dtype[name] if isinstance(dtype, Mapping) else dtype, rng)
            for name, part in shape.items()
        }
        by_position.append(given)
        if all(name in names for name in given):
            kwargs.update(given)
        else:
            args.append(given)
    example = Example(tuple(args), kwargs)
    # An argument may have the name of an entry of the dictionary that it takes; only a call shows which is meant.
    if kwargs and shapes != [input_shapes] and not _runs(model, example, extra):
        other = Example(tuple(by_position))
        example = other if _runs(model, other, extra) else example
    kept = {id(tensor) for tensor in tensors_in(shapes)}
    _fit_to_embeddings(model, example, rng, extra, kept)
    return example


def _runs(model: nn.Layer, example: Example, extra: Mapping[str, Any]) -> bool:
    try:
        example.call(model, **extra)
    except Exception:  # whatever the model's forward raises
        return False
    return True


def compare(expected: Sequence[paddle.Tensor], found: Sequence[paddle.Tensor], what: str) -> float:
    """The largest difference between two models' outputs.

    Raises: ExportError where it is more than `TOLERANCE` x max(1, largest output), where shapes differ, and where an
        output is not a number, of which nothing can be compared.
    """
    if [list(tensor.shape) for tensor in expected] != [list(tensor.shape) for tensor in found]:
        raise ExportError(
            f"{what}: outputs of shapes {[list(t.shape) for t in found]}, expected {[list(t.shape) for t in expected]}"
        )
    worst = 0.0
    for number, (one, other) in enumerate(zip(expected, found, strict=True)):
        a, b = np.asarray(one.astype("float64")), np.asarray(other.astype("float64"))
        if np.isnan(a).any() or np.isnan(b).any():
            raise ExportError(_nan_message(what, number, a, b))
        difference = float(np.abs(a - b).max()) if a.size else 0.0
        limit = TOLERANCE * max(1.0, float(np.abs(a).max()) if a.size else 0.0)
        # Written so that a difference that is not a number (of infinities) counts as one that is too large.
        if not difference <= limit:
            raise ExportError(f"{what}: outputs differ by {difference:.3g}, more than {limit:.3g}; nothing was kept")
        worst = max(worst, difference)
    return worst


def _nan_message(what: str, number: int, expected: np.ndarray, found: np.ndarray) -> str:
    """What is said of an output that has NaN among its entries, on either side."""
    counts = [int(np.isnan(side).sum()) for side in (expected, found)]
    cause = (
        "the model itself gives NaN for these inputs: give others, or look for overflow or untrained running statistics"
        if counts[0]
        else "the compared one alone gives NaN"
    )
    return (
        f"{what}: output {number} is NaN in {counts[0]} of {expected.size} entries expected and in {counts[1]} of "
        f"those found; {cause}; nothing was kept"
    )


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).strip().splitlines() if line), "no message")


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
    if name not in _DTYPES:
        raise ExportError(f"input_dtypes: {dtype!r} is not one of {', '.join(_DTYPES)}")
    if "int" in name or name == "bool":
        return paddle.to_tensor(rng.integers(0, 2, sizes)).astype(name)
    return paddle.to_tensor(rng.standard_normal(sizes)).astype(name)


def _fit_to_embeddings(
    model: nn.Layer, example: Example, rng: np.random.Generator, extra: Mapping[str, Any], kept: Collection[int]
) -> None:
    """Fills each integer input that an embedding reads with random rows of its table, and padding.

    Args:
        model: as in `random_example`.
        example: the inputs.
        rng: of the rows.
        extra: as in `random_example`.
        kept: ids of the inputs that stay as they are.

    Raises: ExportError where the model does not run on the example.
    """
    read_by: dict[int, nn.Embedding] = {}

    def remember(layer: nn.Layer, given: Any) -> None:
        read_by[id(given[0])] = cast(nn.Embedding, layer)

    embeddings = [layer for layer in model.sublayers(include_self=True) if isinstance(layer, nn.Embedding)]
    hooks = [layer.register_forward_pre_hook(cast(Any, remember)) for layer in embeddings]
    try:
        example.call(model, **extra)
    except Exception as error:  # whatever the model's forward raises
        raise ExportError(
            f"{type(model).__name__} does not run on random inputs of the shapes "
            f"{[list(tensor.shape) for tensor in example.tensors]} ({type(error).__name__}: {_first_line(error)}); "
            "give input_shapes with what its forward takes, shapes or tensors, e.g. [{'input_ids': ids, 'bbox': boxes}]"
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
    inputs = [tensor for tensor in example.tensors if not tensor.is_floating_point() and id(tensor) not in kept]
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
