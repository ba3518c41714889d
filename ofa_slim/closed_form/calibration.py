"""Unlabelled rows that closed forms are computed from."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import paddle
from paddle import nn

from ofa_slim.base.checks import check_layer, check_many, check_whole
from ofa_slim.base.examples import Example
from ofa_slim.base.modes import forward_signature
from ofa_slim.errors import CalibrationError
from ofa_slim.tasks import padding_mask

LEAST_ROWS = 16

LABELS = ("labels", "label")


@dataclass(frozen=True)
class Batch:
    """One batch: a call of the model, and which of its positions are real.

    Attributes:
        number: its place in the loader.
        example: the call.
        real: bool [batch, length], false where there is padding; None where nothing says so.
    """

    number: int
    example: Example
    real: paddle.Tensor | None

    @property
    def rows(self) -> int:
        """The number of rows, the first dimension of the first input."""
        return int(self.example.tensors[0].shape[0])

    def flat(self, values: paddle.Tensor) -> paddle.Tensor:
        """The values at real positions, [positions, channels], of [batch, ..., channels]."""
        by_position = values.ndim > 2 and self.real is not None and list(values.shape[:2]) == list(self.real.shape)
        if by_position and self._places is not None:
            values = paddle.gather(values.reshape([-1, *values.shape[2:]]), self._places)
        return values.reshape([-1, values.shape[-1]])

    @cached_property
    def _places(self) -> paddle.Tensor | None:
        """The numbers of the real positions, where some are not."""
        if self.real is None or bool(self.real.all()):
            return None
        return paddle.nonzero(self.real.reshape([-1])).reshape([-1])


class Calibration:
    """Batches on which a model can be run again and again; no label is read.

    Args:
        model: a plain model, or a supernet that runs in full.
        loader: batches: dictionaries of keyword inputs (``labels`` in them are left out), tuples or lists of inputs by
            position, or the only input. A data loader that adds labels to tuples needs to be told apart first.
        rows: how many rows to use at most; None: all.
        pad_token_id: of ``input_ids``; by default the model's own. An ``attention_mask`` says it better.

    Raises: CalibrationError where the loader gives no batch, or fewer than 16 rows.
    """

    def __init__(
        self, model: nn.Layer, loader: Iterable[Any], rows: int | None = None, pad_token_id: int | None = None
    ) -> None:
        check_layer(model, "model", CalibrationError)
        check_many(loader, "the calibration loader", "batches", CalibrationError)
        if rows is not None:
            check_whole(rows, "rows", 1, CalibrationError)
        self.batches: list[Batch] = []
        pad = _pad_token_id(model) if pad_token_id is None else pad_token_id
        left = float("inf") if rows is None else rows
        for number, values in enumerate(loader):
            if left <= 0:
                break
            batch = _batch(model, number, values, pad)
            left -= batch.rows
            self.batches.append(batch)
        if not self.batches:
            raise CalibrationError("the calibration loader gave no batch")
        if self.rows < LEAST_ROWS:
            raise CalibrationError(f"the calibration loader gave {self.rows} rows; at least {LEAST_ROWS} are needed")

    def __iter__(self) -> Iterator[Batch]:
        """The batches, always in the same order."""
        return iter(self.batches)

    @property
    def rows(self) -> int:
        """The number of rows."""
        return sum(batch.rows for batch in self.batches)

    def part(self, rows: int) -> Calibration:
        """Batches of about so many rows, spread evenly over the loader, which may be sorted by length."""
        share = min(rows / self.rows, 1.0)
        wanted = min(len(self.batches), max(1, math.ceil(share * len(self.batches))))
        return _of([self.batches[number * len(self.batches) // wanted] for number in range(wanted)])

    def without(self, other: Calibration) -> Calibration:
        """The batches that are not in another."""
        numbers = {batch.number for batch in other}
        return _of([batch for batch in self if batch.number not in numbers])


def without_labels(values: Any) -> Any:
    """A batch without the labels, where it is a dictionary that has them."""
    if isinstance(values, Mapping):
        return {name: value for name, value in values.items() if name not in LABELS}
    return values


def _of(batches: list[Batch]) -> Calibration:
    found = object.__new__(Calibration)
    found.batches = batches
    return found


def _batch(model: nn.Layer, number: int, values: Any, pad_token_id: int | None) -> Batch:
    example = Example.of(model, without_labels(values))
    if not example.tensors:
        raise CalibrationError(f"a calibration batch is a {type(values).__name__} without a tensor")
    names = list(forward_signature(model).parameters)
    inputs = {**dict(zip(names, example.args, strict=False)), **example.kwargs}
    return Batch(number, example, padding_mask(inputs, pad_token_id))


def _pad_token_id(model: nn.Layer) -> int | None:
    for layer in model.sublayers(include_self=True):
        for holder in (layer, getattr(layer, "config", None)):
            found = getattr(holder, "pad_token_id", None)
            if isinstance(found, int):
                return found
    return None
