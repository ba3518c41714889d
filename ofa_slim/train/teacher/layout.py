"""How a row of a teacher's answer lies in files: which tensors, of which dtype and shape, nested how."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import paddle

from ofa_slim.base.nested import Place, join, split
from ofa_slim.errors import ConfigError
from ofa_slim.train.teacher.answer import Answer
from ofa_slim.train.teacher.keys import Rows

_DTYPES = (
    *("bool", "uint8", "int8", "int16", "int32", "int64"),
    *("float16", "bfloat16", "float32", "float64", "complex64", "complex128"),
)


@dataclass(frozen=True)
class Field:
    """One tensor of an answer.

    Attributes:
        dtype: Paddle's name of it.
        shape: of one row; of one position of it where there are positions.
        positions: whether dimension 1 is the padded length, so that rows are cut to their own.
    """

    dtype: str
    shape: tuple[int, ...]
    positions: bool

    @property
    def bits(self) -> np.dtype[Any]:
        """The dtype in files."""
        # NumPy has no bfloat16; Paddle hands its bits out as 16-bit numbers.
        return np.dtype("int16" if self.dtype == "bfloat16" else self.dtype)

    @property
    def size(self) -> int:
        """Bytes of one row, or of one position."""
        return self.bits.itemsize * math.prod(self.shape)

    def fits(self, tensor: paddle.Tensor, rows: Rows) -> bool:
        """Whether a tensor of the answer to some rows is one of these."""
        shape = [len(rows.keys), *([rows.padded] if self.positions else []), *self.shape]
        return list(tensor.shape) == shape and _name(tensor) == self.dtype

    def to_array(self, tensor: paddle.Tensor) -> np.ndarray:
        """The bits of a tensor, on the host."""
        return np.ascontiguousarray(tensor.numpy()).view(self.bits)

    def to_tensor(self, array: np.ndarray) -> paddle.Tensor:
        """The tensor of some bits, on the current device."""
        tensor = paddle.to_tensor(array)
        return tensor.view("bfloat16") if self.dtype == "bfloat16" else tensor


@dataclass(frozen=True)
class Layout:
    """What every row of a cache has.

    Attributes:
        fields: the tensors of the answer.
        nesting: how the output and the mapped layers by name hold them, in the form that JSON can have.
    """

    fields: tuple[Field, ...]
    nesting: Any

    @property
    def layers(self) -> list[str]:
        """The mapped layers, in order."""
        return list(_decoded(self.nesting)[1])

    def row_size(self, length: int) -> int:
        """Bytes of a row with this many positions."""
        return sum(field.size * (length if field.positions else 1) for field in self.fields)

    def tensors(self, answer: Answer, rows: Rows) -> list[paddle.Tensor]:
        """The tensors of an answer, one for each field.

        Raises: ConfigError for an answer of another form.
        """
        tensors, nesting = _taken(answer)
        fit = nesting == self.nesting and all(
            field.fits(tensor, rows) for field, tensor in zip(self.fields, tensors, strict=True)
        )
        if not fit:
            raise ConfigError(
                f"cache_teacher: the teacher answered with {_described(tensors)}, but the rows in the cache have "
                f"{', '.join(f'{field.dtype} {list(field.shape)}' for field in self.fields)}, each row (or position) "
                "alone; all answers in one directory have one form"
            )
        return tensors

    def answer(self, arrays: list[np.ndarray], mask: paddle.Tensor | None) -> Answer:
        """The answer with these bits, one array for each field, where `mask` says which positions are known."""
        output, hidden = join(
            _decoded(self.nesting),
            [field.to_tensor(array) for field, array in zip(self.fields, arrays, strict=True)],
        )
        places: dict[str, Place] = _decoded(self.nesting)[1]
        masks = {
            name: mask for name, place in places.items() if mask is not None and self.fields[place.number].positions
        }
        return Answer(output, hidden, masks)

    def to_json(self) -> dict[str, Any]:
        """The layout as plain dictionaries and lists."""
        fields = [{**asdict(field), "shape": list(field.shape)} for field in self.fields]
        return {"fields": fields, "nesting": self.nesting}

    @staticmethod
    def from_json(about: dict[str, Any]) -> Layout:
        """The layout that `to_json` wrote; raises ValueError, KeyError or TypeError for anything else."""
        fields = tuple(Field(field["dtype"], tuple(field["shape"]), field["positions"]) for field in about["fields"])
        for field in fields:
            whole = all(type(size) is int and size >= 0 for size in field.shape)
            if field.dtype not in _DTYPES or not whole or type(field.positions) is not bool:
                raise ValueError(f"{field} is not a tensor of a row")
        layout = Layout(fields, about["nesting"])
        places = _places(about["nesting"])
        if sorted(places) != list(range(len(fields))) or not isinstance(_decoded(layout.nesting)[1], dict):
            raise ValueError("its nesting is not that of its tensors")
        return layout


def layout_of(answer: Answer, rows: Rows, shorter: Callable[[], Answer]) -> Layout:
    """The layout of the first answer.

    Args:
        answer: to some rows.
        rows: these.
        shorter: computes the answer to the same batch at another padded length. It is asked where dimension 1 of
            two may be classes or positions.

    Raises: ConfigError for an answer that has no rows or cannot be stored.
    """
    tensors, nesting = _taken(answer)
    for tensor in tensors:
        if tensor.ndim == 0 or tensor.shape[0] != len(rows.keys):
            raise ConfigError(
                f"cache_teacher stores row by row, but the answer to {len(rows.keys)} rows has {_described([tensor])}"
            )
        if _name(tensor) not in _DTYPES:
            raise ConfigError(f"cache_teacher: the answer has dtype {_name(tensor)}, which is none of {_DTYPES}")
    positions = [tensor.ndim >= 2 and tensor.shape[1] == rows.padded for tensor in tensors]
    if any(found and tensor.ndim == 2 for found, tensor in zip(positions, tensors, strict=True)):
        others = _taken(_asked(shorter))[0]
        positions = [found and other.shape[1] != rows.padded for found, other in zip(positions, others, strict=True)]
    fields = [
        Field(_name(tensor), tuple(tensor.shape[2 if found else 1 :]), found)
        for found, tensor in zip(positions, tensors, strict=True)
    ]
    return Layout(tuple(fields), nesting)


def _asked(shorter: Callable[[], Answer]) -> Answer:
    try:
        return shorter()
    except Exception as error:  # whatever somebody's model raises
        raise ConfigError(
            "cache_teacher: an answer is as wide as the batch is padded, and whether that is a coincidence cannot be "
            f"told, as the teacher does not run at another padding: {error}"
        ) from error


def _taken(answer: Answer) -> tuple[list[paddle.Tensor], Any]:
    tensors, nesting = split((answer.output, dict(sorted(answer.hidden.items()))))
    return tensors, _encoded(nesting)


def _name(tensor: paddle.Tensor) -> str:
    return str(tensor.dtype).removeprefix("paddle.")


def _described(tensors: list[paddle.Tensor]) -> str:
    return ", ".join(f"{_name(tensor)} {list(tensor.shape)}" for tensor in tensors) or "no tensor"


def _encoded(nesting: Any) -> Any:
    if isinstance(nesting, Place):
        return {"tensor": nesting.number}
    if type(nesting) in (list, tuple):
        return {type(nesting).__name__: [_encoded(item) for item in nesting]}
    if type(nesting) is dict:
        return {"dict": [[_encoded(key), _encoded(item)] for key, item in nesting.items()]}
    if not isinstance(nesting, (type(None), bool, int, float, str)):
        raise ConfigError(
            f"cache_teacher: the teacher's output holds a {type(nesting).__name__}; tensors in plain lists, tuples and "
            "dictionaries can be stored"
        )
    return {"value": nesting}


def _places(nesting: Any) -> list[int]:
    """The numbers of the tensors in an encoded nesting."""
    ((kind, inside),) = nesting.items()
    if kind == "tensor":
        return [inside]
    if kind == "value":
        return []
    parts = [item for _, item in inside] if kind == "dict" else inside
    return [number for part in parts for number in _places(part)]


def _decoded(nesting: Any) -> Any:
    ((kind, inside),) = nesting.items()
    if kind == "tensor":
        return Place(inside)
    if kind == "dict":
        return {_decoded(key): _decoded(item) for key, item in inside}
    if kind == "value":
        return inside
    items = [_decoded(item) for item in inside]
    return tuple(items) if kind == "tuple" else items
