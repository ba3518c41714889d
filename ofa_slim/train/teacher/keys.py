"""Keys of rows and of teachers: hashes that are the same in another batch, another process, another year."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
import paddle
from paddle import nn

from ofa_slim.base.modes import forward_signature
from ofa_slim.base.nested import PLAIN, split, unsupported_leaf
from ofa_slim.errors import ConfigError

KEY_SIZE = 16


@dataclass(frozen=True, eq=False)
class Rows:
    """The rows of a batch.

    Attributes:
        keys: a hash for each row.
        lengths: int64 [rows], positions without the padding at the end; 0 where the batch has no token ids.
        padded: positions with the padding; None where the batch has no token ids.
    """

    keys: list[bytes]
    lengths: np.ndarray
    padded: int | None


def teacher_key(model: nn.Layer) -> bytes:
    """A hash of a model's parameters and buffers, all bytes of them, and of what its layers are made of.

    That is their classes, and their public attributes that are numbers, texts or functions (an activation). What the
    code of a class does is not part of it.
    """
    digest = blake2b(digest_size=KEY_SIZE)
    for path, layer in model.named_sublayers(include_self=True):
        digest.update(f"{path} {type(layer).__qualname__} {_settings(layer)}\n".encode())
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(np.ascontiguousarray(tensor.numpy()).data)
    return digest.digest()


def _settings(layer: nn.Layer) -> list[tuple[str, str]]:
    """A layer's plain public attributes. Its mode is none of its settings, and private ones change while it runs."""
    found = []
    for name, value in sorted(vars(layer).items()):
        if name == "training" or name.startswith("_"):
            continue
        if isinstance(value, PLAIN) or (
            isinstance(value, (list, tuple)) and all(isinstance(item, PLAIN) for item in value)
        ):
            found.append((name, repr(value)))
        elif callable(value) and hasattr(value, "__qualname__"):
            found.append((name, value.__qualname__))
    return found


def rows_of(
    model: nn.Layer, args: tuple[Any, ...], kwargs: Mapping[str, Any], teacher: bytes, pad_token_id: int | None
) -> Rows:
    """The rows of a batch; its tensors are copied to the host.

    Args:
        model: whose forward names the inputs, so that it does not matter which are given by name.
        args: of the call.
        kwargs: of the call.
        teacher: goes into each key.
        pad_token_id: trailing positions where the token ids equal it are cut, in all integers of the same shape;
            None: nothing is.

    Raises: ConfigError for inputs that have no rows, or that no hash can tell from others.
    """
    bound = forward_signature(model).bind(*args, **kwargs)
    tensors, nesting = split(dict(bound.arguments))
    kind = unsupported_leaf(nesting)
    if kind is not None:
        raise ConfigError(
            f"cache_teacher: an input is a {kind}; a row is looked up by tensors, numbers, text, and plain lists, "
            "tuples and dictionaries of them"
        )
    if not tensors:
        raise ConfigError("cache_teacher: the model was called without a tensor, so there are no rows to look up")
    shapes = [list(tensor.shape) for tensor in tensors]
    if any(not shape or shape[0] != (shapes[0] or [0])[0] for shape in shapes):
        raise ConfigError(
            f"cache_teacher looks up row by row, but dimension 0 is not the batch in all inputs: shapes {shapes}"
        )
    arrays = [np.ascontiguousarray(tensor.numpy()) for tensor in tensors]
    ids = next((number for number, tensor in enumerate(tensors) if _may_be_ids(tensor)), None)
    lengths = np.zeros(shapes[0][0], "int64")
    cut = [False] * len(tensors)
    if ids is not None:
        lengths = _lengths(arrays[ids], pad_token_id)
        cut = [_whole_numbers(tensor) and list(tensor.shape) == shapes[ids] for tensor in tensors]
    about = [
        (str(tensor.dtype), None if part else shape[1:])
        for tensor, part, shape in zip(tensors, cut, shapes, strict=True)
    ]
    common = blake2b(repr((nesting, about)).encode(), key=teacher, digest_size=KEY_SIZE)
    keys = []
    for row, length in enumerate(lengths):
        digest = common.copy()
        digest.update(int(length).to_bytes(8, "little"))
        for array, part in zip(arrays, cut, strict=True):
            digest.update((array[row, :length] if part else array[row : row + 1]).data)
        keys.append(digest.digest())
    return Rows(keys, lengths, None if ids is None else shapes[ids][1])


def is_cut(tensor: paddle.Tensor, rows: Rows) -> bool:
    """Whether an input of a batch is one that the padding is cut from."""
    return _whole_numbers(tensor) and list(tensor.shape) == [len(rows.keys), rows.padded]


def _lengths(ids: np.ndarray, pad_token_id: int | None) -> np.ndarray:
    rows, padded = ids.shape
    if pad_token_id is None:
        return np.full(rows, padded, "int64")
    real = ids != pad_token_id
    lengths = padded - np.argmax(real[:, ::-1], axis=1) if padded else np.zeros(rows, "int64")
    # A row of nothing but padding is most likely no token ids at all: nothing is cut from it.
    return np.where(real.any(axis=1), lengths, padded).astype("int64")


def _may_be_ids(tensor: paddle.Tensor) -> bool:
    return tensor.ndim == 2 and _whole_numbers(tensor) and tensor.dtype != paddle.bool


def _whole_numbers(tensor: paddle.Tensor) -> bool:
    return not tensor.is_floating_point() and not tensor.is_complex()
