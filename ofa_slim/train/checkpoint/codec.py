"""Nested states as JSON beside safetensors: exact in value and type, and nothing in them can run."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import safetensors.numpy
import safetensors.paddle

from ofa_slim.base.json_files import read_json
from ofa_slim.errors import CheckpointError

# What safetensors writes and reads back as the same type.
_TENSORS = (
    "float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "complex64",
    "int64", "int32", "int16", "int8", "uint8", "bool",
)  # fmt: skip
# Of these, the ones that NumPy does not have, through which safetensors reads before Paddle 3.3: written as their bits.
_BITS = {"bfloat16": "int16", "float8_e4m3fn": "uint8", "float8_e5m2": "uint8"}
_ARRAYS = (
    "float64", "float32", "float16", "complex64",
    "int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8", "bool",
)  # fmt: skip


@dataclass
class Encoded:
    """A state as it is written.

    Attributes:
        content: JSON; a dictionary with one key that begins with ``$`` stands for what JSON does not have.
        tensors: Paddle tensors, by their path in the state.
        arrays: NumPy arrays and scalars, likewise.
    """

    content: Any = None
    tensors: dict[str, paddle.Tensor] = field(default_factory=dict)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)


def encode(state: object, where: str) -> Encoded:
    """Takes a state apart.

    Args:
        state: nested dictionaries (keys are texts or whole numbers), lists and tuples of tensors, arrays, NumPy
            scalars, numbers, texts, truth values and None.
        where: what the state is of, for errors.

    Raises: CheckpointError that names the place of a value that has no exact form.
    """
    encoded = Encoded()
    encoded.content = _encode(state, "", where, encoded)
    return encoded


def _encode(value: Any, path: str, where: str, out: Encoded) -> Any:
    if value is None or type(value) in (bool, int, str):
        return value
    if type(value) is float:
        return value if math.isfinite(value) else {"$float": repr(value)}
    if type(value) in (list, tuple):
        items = [_encode(item, _below(path, number), where, out) for number, item in enumerate(value)]
        return items if type(value) is list else {"$tuple": items}
    if isinstance(value, dict) and all(type(key) in (str, int) for key in value):
        pairs = [(key, _encode(item, _below(path, key), where, out)) for key, item in value.items()]
        if all(type(key) is str and not key.startswith("$") for key in value):
            return dict(pairs)
        return {"$dict": [list(pair) for pair in pairs]}
    if isinstance(value, paddle.Tensor):
        dtype = str(value.dtype).removeprefix("paddle.")
        if dtype in _TENSORS and value.is_dense():
            if value.size == 0:  # safetensors' Paddle half neither writes nor reads these
                return {"$empty": {"dtype": dtype, "shape": list(value.shape)}}
            plain = value.detach().contiguous()
            if dtype in _BITS:
                return {"$bits": {"dtype": dtype, "of": _put(out.tensors, path, _viewed(plain, _BITS[dtype]))}}
            return {"$tensor": _put(out.tensors, path, plain)}
    if isinstance(value, (np.ndarray, np.generic)) and value.dtype.name in _ARRAYS and value.dtype.isnative:
        marker = "$array" if isinstance(value, np.ndarray) else "$scalar"
        return {marker: _put(out.arrays, path, np.ascontiguousarray(value).reshape(value.shape))}
    kind = f"{type(value).__name__} of {value.dtype}" if hasattr(value, "dtype") else type(value).__name__
    raise CheckpointError(
        f"{where}: the state's {path or 'value'!r} is a {kind}, which has no exact form without pickle"
    )


def _below(path: str, key: str | int) -> str:
    return f"{path}/{key}" if path else str(key)


def _put(store: dict[str, Any], path: str, value: Any) -> str:
    """Stores a value under its path; keys with slashes could make two paths one."""
    name = path or "value"
    while name in store:
        name += "'"
    store[name] = value
    return name


def decode(encoded: Encoded) -> Any:
    """Puts a state together again; tensors are on the CPU and need no gradient."""
    return _decode(encoded.content, encoded)


def _decode(content: Any, parts: Encoded) -> Any:
    if isinstance(content, list):
        return [_decode(item, parts) for item in content]
    if not isinstance(content, dict):
        return content
    if len(content) == 1:
        ((marker, value),) = content.items()
        if marker in _READERS:
            return _READERS[marker](value, parts)
    return {key: _decode(item, parts) for key, item in content.items()}


_READERS: dict[str, Callable[[Any, Encoded], Any]] = {
    "$float": lambda value, parts: float(value),
    "$tuple": lambda value, parts: tuple(_decode(item, parts) for item in value),
    "$dict": lambda value, parts: {key: _decode(item, parts) for key, item in value},
    "$empty": lambda value, parts: _empty(value["shape"], value["dtype"]),
    "$bits": lambda value, parts: _viewed(parts.tensors[value["of"]], value["dtype"]),
    "$tensor": lambda value, parts: parts.tensors[value],
    "$array": lambda value, parts: parts.arrays[value],
    "$scalar": lambda value, parts: parts.arrays[value][()],
}


def _empty(shape: list[int], dtype: Any) -> paddle.Tensor:
    if 0 not in shape or dtype not in _TENSORS:
        raise ValueError(f"{dtype} {shape} is not a tensor without entries")
    return paddle.empty(shape, dtype=dtype)


def _viewed(tensor: paddle.Tensor, dtype: Any) -> paddle.Tensor:
    """A copy of the same bits as another type of as many: a view itself forgets where its tensor begins (3.2)."""
    return tensor.clone().view(dtype)


def copied(state: object, where: str) -> Any:
    """A copy of a state that shares nothing with it."""
    encoded = encode(state, where)
    encoded.tensors = {path: tensor.clone() for path, tensor in encoded.tensors.items()}
    encoded.arrays = {path: array.copy() for path, array in encoded.arrays.items()}
    return decode(encoded)


def render(content: object) -> str:
    """JSON of what `encode` made; the same content gives the same text."""
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def write(folder: Path, name: str, encoded: Encoded) -> list[Path]:
    """Writes ``name.json`` and, where there are tensors or arrays, their safetensors.

    Returns: the files.

    Raises: OSError or SafetensorError from the file system.
    """
    content, tensors, arrays = _files(folder, name)
    content.write_text(render(encoded.content), encoding="utf-8")
    files = [content]
    if encoded.tensors:
        safetensors.paddle.save_file(encoded.tensors, str(tensors))
        files.append(tensors)
    if encoded.arrays:
        safetensors.numpy.save_file(encoded.arrays, str(arrays))
        files.append(arrays)
    return files


def read(folder: Path, name: str) -> Encoded:
    """Reads what `write` wrote and a checksum has vouched for."""
    content, tensors, arrays = _files(folder, name)
    return Encoded(
        read_json(content),
        safetensors.paddle.load_file(str(tensors)) if tensors.exists() else {},
        safetensors.numpy.load_file(str(arrays)) if arrays.exists() else {},
    )


def _files(folder: Path, name: str) -> tuple[Path, Path, Path]:
    return folder / f"{name}.json", folder / f"{name}.safetensors", folder / f"{name}.arrays.safetensors"
