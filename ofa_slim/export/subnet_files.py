"""`save_subnet` and `load_subnet`: a plain model as safetensors and JSON, rebuilt at any widths."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import paddle
from paddle import nn
from safetensors.paddle import load_file, save_file

from ofa_slim.base.checks import checked_path
from ofa_slim.base.examples import Example, compare, random_example
from ofa_slim.base.files import atomic_folder
from ofa_slim.base.foreign import check_contents, fits
from ofa_slim.base.json_files import read_json
from ofa_slim.errors import ExportError, MissingPackageError, OfaSlimError
from ofa_slim.export import pretrained
from ofa_slim.export.cut import cut
from ofa_slim.export.factorised_embedding import factorised_ranks, put
from ofa_slim.export.own_layers import cut_to_shapes, numbers_of, set_numbers
from ofa_slim.supernet.discover import full_space
from ofa_slim.supernet.families import left_out_axes
from ofa_slim.supernet.grow import grow
from ofa_slim.supernet.handle import require_plain
from ofa_slim.supernet.layers.kernels import centre, has_kernel, padding_of, set_padding
from ofa_slim.supernet.paths import layer_at
from ofa_slim.supernet.spec import Extent, cut_plain, parameter_like, row_of, spec_of
from ofa_slim.supernet.tied import tie, ties

logger = logging.getLogger(__name__)

SUBNET_FILE = "subnet.json"
WEIGHTS_FILE = "model.safetensors"
_FORMAT = 1
_METADATA = {"format": "np"}  # PaddleNLP's from_pretrained reads no file without it


def save_subnet(model: nn.Layer, directory: str | os.PathLike[str], inputs: Mapping[str, Any] | None = None) -> None:
    """Writes a plain model, exported or not, so that `load_subnet` rebuilds it.

    The directory holds ``model.safetensors``, PaddleNLP's ``config.json`` where the model is one of its
    classes, and ``subnet.json`` with the size of each axis and layer, the rank of each factorised embedding and the
    numbers of layers that cutting has changed.
    It is written aside, loaded again, compared with the model (what it computes, or for a model that only its own
    code can build the weights) and only then put in place.

    Args:
        model: a plain model; a supernet is cut by `OFA.export` first.
        directory: where to; it must be new, empty, or an earlier save, which is replaced.
        inputs: tensors by the name of the model's input, to compare what it computes on; for models of PaddleNLP that
            need more than token ids. Without them such a model's weights are compared.

    Raises: ExportError for a supernet, a directory with other contents, or files that do not load back to
        a model that computes the same; nothing is left behind then.
    """
    require_plain(model, "save_subnet")
    sizes = {**full_space(model).largest(), **left_out_axes(model)}
    known = pretrained.is_pretrained(model)
    about = {
        "format": _FORMAT,
        "class": type(model).__name__ if known else None,
        "built_with": pretrained.built_with(model) if known else {},
        "axes": sizes,
        "layers": _layer_sizes(model),
        "paddings": _paddings(model),
        "factorised": factorised_ranks(model),
        "numbers": numbers_of(model),
    }
    with replacing(directory, marker=SUBNET_FILE) as aside:
        # Tied parameters are one tensor under several names; a file holds each name for itself.
        save_file(
            {key: value.clone() for key, value in model.state_dict().items()},
            str(aside / WEIGHTS_FILE),
            metadata=_METADATA,
        )
        if known:
            pretrained.save_config(model, aside)
        (aside / SUBNET_FILE).write_text(json.dumps(about, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        probe = _probe(model, inputs) if known else None
        if probe is not None:
            compare(probe.outputs(model), probe.outputs(load_subnet(aside)), "save_subnet")
        else:
            written = load_subnet(aside).state_dict() if known else load_file(str(aside / WEIGHTS_FILE))
            state = model.state_dict()
            compare(list(state.values()), [written[key] for key in state], "save_subnet")


def _probe(model: nn.Layer, inputs: Mapping[str, Any] | None) -> Example | None:
    """Inputs that the model runs on; None for a model that needs more than token ids, where none were given."""
    if inputs is not None:
        return Example(kwargs=dict(inputs))
    try:
        return random_example(model)
    except Exception as error:  # whatever the model's forward raises without the inputs that it needs
        logger.info("save_subnet: %s needs more inputs than token ids (%s); weights are compared", type(model), error)
        return None


def load_subnet(directory: str | os.PathLike[str], model: nn.Layer | None = None) -> nn.Layer:
    """Rebuilds what `save_subnet` wrote.

    Args:
        directory: the saved directory.
        model: for a model that is not of PaddleNLP: a freshly built one of the original sizes, cut (or, out of
            a supernet that was made larger, grown) in place.

    Returns: the plain model, as its own class, in eval mode.

    Raises: ExportError where `save_subnet` did not write the directory, or its files do not fit each other.
    """
    folder = checked_path(directory, "directory", ExportError)
    about = _read_about(folder)
    state = _read_weights(folder)
    try:
        return _rebuilt(folder, about, state, model)
    except (ExportError, MissingPackageError):
        raise
    except (OfaSlimError, AttributeError, KeyError, TypeError, ValueError, IndexError) as error:
        raise ExportError(f"{folder}: {SUBNET_FILE} does not describe the model: {error}") from error


def _read_weights(folder: Path) -> dict[str, paddle.Tensor]:
    file = folder / WEIGHTS_FILE
    try:
        return load_file(str(file))
    except OSError as error:
        raise ExportError(f"{file}: {error.strerror or error}") from error
    except Exception as error:  # safetensors has errors of its own, and Paddle's for types that it does not know
        raise ExportError(f"{file}: not a readable safetensors file ({error})") from error


def _rebuilt(folder: Path, about: dict[str, Any], state: dict[str, paddle.Tensor], model: nn.Layer | None) -> nn.Layer:
    """The model of some sizes, with its weights."""
    if model is None:
        if about["class"] is None:
            raise ExportError(f"{folder}: not a PaddleNLP model; give load_subnet(..., model=) a freshly built one")
        model = pretrained.build(about["class"], folder, about.get("built_with", {}))
    together = ties(model)
    _shrink(model, about["axes"], folder)
    _factorise(model, about.get("factorised", {}), folder)
    _resize(model, about["layers"], state, folder)
    _pad(model, about.get("paddings", {}), folder)
    cut_to_shapes(model, state)
    set_numbers(model, about.get("numbers", {}), folder / SUBNET_FILE)
    _take_dtypes(model, state)
    own = model.state_dict()
    for key in {**own, **state}:
        if key not in own or key not in state or list(own[key].shape) != list(state[key].shape):
            raise ExportError(f"{folder}: {WEIGHTS_FILE} does not fit the model at {key!r}")
    for key, value in own.items():
        value.set_value(state[key].astype(value.dtype))
    tie(together)
    model.eval()
    return model


def _take_dtypes(model: nn.Layer, state: Mapping[str, paddle.Tensor]) -> None:
    """Gives a model's parameters and buffers the floating types that were saved, in place."""
    own = model.state_dict()
    kinds = {str(tensor.dtype): tensor.dtype for tensor in state.values() if tensor.is_floating_point()}
    if len(kinds) == 1:
        (dtype,) = kinds.values()
        if any(tensor.is_floating_point() and tensor.dtype != dtype for tensor in own.values()):
            model.to(dtype=dtype)
        return
    for path, layer in model.named_sublayers(include_self=True):
        for name, parameter in layer.named_parameters(include_sublayers=False):
            saved = state.get(f"{path}.{name}" if path else name)
            if saved is not None and saved.dtype != parameter.dtype and parameter.is_floating_point():
                setattr(layer, name, parameter_like(layer, parameter, parameter.astype(saved.dtype)))


@contextmanager
def replacing(directory: str | os.PathLike[str], marker: str) -> Iterator[Path]:
    """A new directory beside the target, put in its place when the block ends well, removed otherwise.

    Args:
        directory: the target; it must be new, empty, or hold the file `marker` of an earlier save.
        marker: name of that file.

    Raises: ExportError for a target with other contents.
    """
    target = checked_path(directory, "directory", ExportError).absolute()
    if target.exists() and not target.is_dir():
        raise ExportError(f"{target} is a file, not a directory")
    if target.is_dir() and any(target.iterdir()) and not (target / marker).is_file():
        raise ExportError(
            f"{target} is not empty and not an earlier save (it has no {marker}); choose another directory"
        )
    with atomic_folder(target) as aside:
        yield aside


def _read_about(folder: Path) -> dict[str, Any]:
    file = folder / SUBNET_FILE
    if not file.is_file():
        raise ExportError(f"{folder} holds no saved sub-network: {SUBNET_FILE} is not there")
    check_contents(folder, ExportError)
    try:
        about = read_json(file)
    except (OSError, ValueError) as error:
        raise ExportError(f"{file} is not readable as JSON: {error}") from error
    if (
        not isinstance(about, dict)
        or about.get("format") != _FORMAT
        or not all(isinstance(about.get(key), dict) for key in ("axes", "layers"))
    ):
        raise ExportError(f"{file} is not of format {_FORMAT}")
    return about


def _shrink(model: nn.Layer, sizes: dict[str, int], folder: Path) -> None:
    space = full_space(model)
    # A stack that was saved with fewer layers names the axes of its own, shorter, numbering.
    depths = {axis.name: sizes.get(axis.name, axis.size) for axis in space.axes if axis.task == "depth"}
    cut(model, space, space.complete(depths))
    space = full_space(model)
    unknown = [name for name in sizes if name not in {axis.name for axis in space.axes}]
    if unknown:
        raise ExportError(f"{folder}: {SUBNET_FILE} names axis {unknown[0]!r}, which the model does not have")
    cut(model, space, space.complete(sizes))


def _factorise(model: nn.Layer, ranks: Any, folder: Path) -> None:
    """Gives a model the saved factorised embeddings that it does not have yet."""
    if not isinstance(ranks, dict):
        raise ExportError(f"{folder}: 'factorised' in {SUBNET_FILE} is {ranks!r}, not ranks by layer")
    present = factorised_ranks(model)
    layers = dict(model.named_sublayers())
    for path, rank in ranks.items():
        if present.get(path) == rank:
            continue
        table = layers.get(path)
        if type(table) is not nn.Embedding:
            raise ExportError(f"{folder}: {SUBNET_FILE} names embedding {path!r}, which the model does not have so")
        if isinstance(rank, bool) or not isinstance(rank, int) or not 1 <= rank < table.weight.shape[1]:
            raise ExportError(f"{folder}: {SUBNET_FILE} gives embedding {path!r} the rank {rank!r}")
        put(model, path, rank)


def _layer_sizes(model: nn.Layer) -> dict[str, dict[str, int]]:
    """The size of each role of each layer that can be cut and that no axis of a family cuts, by path."""
    on_axis = {(slot.layer, slot.role) for axis in full_space(model).axes for slot in axis.slots}
    found = {
        path: {role: size for role, size in spec.full_sizes(layer).items() if (path, role) not in on_axis}
        for path, layer in model.named_sublayers(include_self=True)
        if (spec := spec_of(layer)) is not None and spec.params
    }
    return {path: sizes for path, sizes in found.items() if sizes}


def _paddings(model: nn.Layer) -> dict[str, list[list[int]]]:
    """The padding of each convolution, ``[before, after]`` per spatial dimension, by path.

    Where the kernel of an even size lay in that of the supernet does not follow from the sizes.
    """
    found = {path: padding_of(layer) for path, layer in model.named_sublayers(include_self=True) if has_kernel(layer)}
    return {path: [list(sides) for sides in padding] for path, padding in found.items() if padding is not None}


def _pad(model: nn.Layer, paddings: Any, folder: Path) -> None:
    """Gives each convolution of a model the padding that was saved."""
    layers = dict(model.named_sublayers(include_self=True))
    for path, padding in paddings.items() if isinstance(paddings, dict) else ():
        layer = layers.get(path)
        own = padding_of(layer) if layer is not None and has_kernel(layer) else None
        if layer is None or own is None or not _is_padding(padding, len(own)):
            raise ExportError(f"{folder}: {SUBNET_FILE} gives layer {path!r} the padding {padding!r}")
        pairs = [(before, after) for before, after in padding]
        if pairs != own:
            set_padding(layer, pairs)


def _is_padding(value: Any, dims: int) -> bool:
    return (
        isinstance(value, list)
        and len(value) == dims
        and all(isinstance(sides, list) and len(sides) == 2 for sides in value)
        and all(type(side) is int and side >= 0 for sides in value for side in sides)
    )


def _resize(
    model: nn.Layer, layers: Mapping[str, Mapping[str, int]], state: Mapping[str, paddle.Tensor], folder: Path
) -> None:
    """Gives each layer of a model the sizes that were saved."""
    present = _layer_sizes(model)
    for path, saved in layers.items():
        full = present.get(path)
        layer = layer_at(model, path) if full is not None else model
        sizes = saved if full is None or set(full) == set(saved) else {**_shape_sizes(layer, path, state), **saved}
        if full is None or not set(full) <= set(sizes):
            raise ExportError(f"{folder}: {SUBNET_FILE} names layer {path!r}, which the model does not have so")
        for role, size in sizes.items():
            if isinstance(size, bool) or not isinstance(size, int) or size < 1:
                raise ExportError(f"{folder}: {SUBNET_FILE} gives {path!r} the {role} {size!r}, not a size")
        sizes = {role: sizes[role] for role in full}
        own = [tuple(tensor.shape) for key, tensor in state.items() if key.rpartition(".")[0] == path]
        if any(size > full[role] for role, size in sizes.items()) and not fits(sizes, own):
            raise ExportError(f"{folder}: {SUBNET_FILE} gives {path!r} the sizes {dict(sizes)}, its weights are {own}")
        smaller: dict[str, Extent] = {
            role: centre(size, full[role]) if role == "kernel" else size
            for role, size in sizes.items()
            if size < full[role]
        }
        larger = {role: size for role, size in sizes.items() if size > full[role]}
        if larger:
            grow(layer, larger)
        if smaller:
            cut_plain(layer, smaller)


def _shape_sizes(layer: nn.Layer, path: str, state: Mapping[str, paddle.Tensor]) -> dict[str, int]:
    """The sizes of a layer's roles by the saved shapes: a cut can leave a layer fewer roles (one slope for all)."""
    spec = row_of(layer)
    return {
        role: size
        for name in spec.params
        if (key := f"{path}.{name}" if path else name) in state
        for role, size in zip(spec.roles(layer, name), state[key].shape, strict=False)
    }
