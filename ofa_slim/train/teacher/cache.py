"""`TeacherCache`: the teacher's answers on disk, so that from the second epoch on it need not run."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import nn

from ofa_slim.base.checks import check_whole
from ofa_slim.base.nested import join, split
from ofa_slim.base.taps import Taps
from ofa_slim.errors import ConfigError
from ofa_slim.train.teacher.answer import Answer, Engine, Fingerprint
from ofa_slim.train.teacher.keys import Rows, is_cut, rows_of, teacher_key
from ofa_slim.train.teacher.layout import Layout, layout_of
from ofa_slim.train.teacher.store import ENTRY_SIZE, Row, Store

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TeacherCache:
    """Keeps a teacher's answers on disk, row by row, for data whose rows come again in every epoch.

    A row is known by a hash of its inputs without their padding, and by one of the teacher's weights: in which batch,
    at which padding, and in which run it comes again does not matter. For the hash every batch of inputs is copied
    to the host. What was stored first is what is always answered, so that a resumed run learns from the same bits.

    The answer to a row must depend on that row alone, and not on its padding. In padded positions the cache knows
    nothing: the mapped layers learn nothing there (the difference counts as zero), and an output with a dimension
    for the positions, which is cut as well, is zero there; a loss on it has to leave padding out.

    Inputs that are augmented differ from epoch to epoch and are refused as soon as more than `rows` were seen.

    Args:
        directory: where to; each teacher gets a directory inside. It has one process at a time as its user, so
            processes that train together need one each.
        rows: how many distinct rows the data set has. Everything that runs through the `OFA` counts.
        pad_token_id: of the token ids, which are the first integer input of shape [batch, length]: trailing
            positions where they equal it are padding, in all integers of that shape. None: nothing is padding,
            as it must be for integers that are no token ids.
        max_bytes: the most that the answers of one teacher may need; more is an error as soon as it can be foreseen.

    Raises: ConfigError for values that cannot mean anything.
    """

    directory: str | os.PathLike[str]
    rows: int
    pad_token_id: int | None = 0
    max_bytes: int = 2 * 2**30

    def __post_init__(self) -> None:
        """Checks what can be checked before there is a batch."""
        if not isinstance(self.directory, (str, os.PathLike)) or not os.fspath(self.directory):
            raise ConfigError(f"TeacherCache: directory {self.directory!r} is not a path")
        if Path(self.directory).exists() and not Path(self.directory).is_dir():
            raise ConfigError(f"TeacherCache: directory {str(self.directory)!r} is a file")
        for name in ("rows", "max_bytes"):
            check_whole(getattr(self, name), f"TeacherCache: {name}", 1, ConfigError)
        if self.pad_token_id is not None and not _is_whole(self.pad_token_id):
            raise ConfigError(f"TeacherCache: pad_token_id {self.pad_token_id!r} is not a whole number or None")


class CachedEngine:
    """An engine that answers rows it has answered before from disk.

    Args:
        engine: answers batches with a row that is not known yet.
        cache: where to keep the rows, and how many there may be.
        model: the teacher.
        taps: its mapped layers.

    Attributes:
        hits: rows that were answered from disk so far.
        misses: rows that the teacher had to run for; a batch with one of them runs as a whole.
    """

    def __init__(self, engine: Engine, cache: TeacherCache, model: nn.Layer, taps: Taps) -> None:
        self.hits = 0
        self.misses = 0
        self._engine = engine
        self._cache = cache
        self._model = model
        self._taps = taps
        self._state: paddle.Tensor | None = None
        self._teacher = b""
        self._store: Store | None = None
        self._seen: set[bytes] = set()

    def __call__(self, args: tuple[Any, ...], kwargs: dict[str, Any], state: Fingerprint) -> Answer:
        """The answer, on the current device.

        Raises: ConfigError for inputs that are not rows, for more rows than there should be, and for answers that
            have no rows, another form than the stored ones, or too many bytes.
        """
        store = self._store_of(state)
        rows = rows_of(self._model, args, kwargs, self._teacher, self._cache.pad_token_id)
        distinct = set(rows.keys)
        self._check_count(distinct)
        missing = {key for key in distinct if key not in store}
        if missing:
            self._answer_missing(store, rows, missing, args, kwargs, state)
        self._count(distinct)
        self.misses += len(missing)
        self.hits += len(rows.keys) - len(missing)
        return _read(store, rows)

    def close(self) -> None:
        """Lets another process use the directory, until the next batch comes."""
        if self._store is not None:
            self._store.close()
        self._store = self._state = None

    def _store_of(self, state: Fingerprint) -> Store:
        """The rows of the teacher with the weights that it has now."""
        now = state()
        if self._store is None or self._state is None or not bool(paddle.equal_all(now, self._state)):
            self.close()
            self._teacher = teacher_key(self._model)
            self._store = Store(Path(self._cache.directory) / self._teacher.hex(), list(self._taps.layers))
            self._state = now
            self._seen.clear()
            logger.info(
                "the teacher's answers to %d of %d rows are known; %s bytes in %s",
                *(len(self._store), self._cache.rows, f"{self._store.size:,}", self._cache.directory),
            )
        return self._store

    def _check_count(self, distinct: set[bytes]) -> None:
        count = len(self._seen) + len(distinct - self._seen)
        if count > self._cache.rows:
            raise ConfigError(
                f"cache_teacher: {count} distinct rows were seen, but rows={self._cache.rows}. Either the inputs "
                "change from epoch to epoch (augmentation), and a cache cannot serve them, or rows= is too small: "
                "everything that runs through the OFA counts"
            )

    def _count(self, distinct: set[bytes]) -> None:
        before = len(self._seen)
        self._seen |= distinct
        if before < self._cache.rows == len(self._seen):
            logger.info("the teacher's answers to all %d rows are known; it need not run any more", self._cache.rows)

    def _answer_missing(
        self,
        store: Store,
        rows: Rows,
        missing: set[bytes],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        state: Fingerprint,
    ) -> None:
        answer = self._engine(args, kwargs, state)
        layout = store.layout
        if layout is None:
            layout = layout_of(answer, rows, partial(self._other_padding, rows, args, kwargs, state))
        arrays = [
            field.to_array(tensor) for field, tensor in zip(layout.fields, layout.tensors(answer, rows), strict=True)
        ]
        new = []
        for number, key in enumerate(rows.keys):
            if key in missing:
                length = int(rows.lengths[number])
                parts = [
                    array[number, :length] if field.positions else array[number : number + 1]
                    for array, field in zip(arrays, layout.fields, strict=True)
                ]
                new.append(Row(key, length, parts))
        self._check_size(store, layout, {row.key: row.length for row in new})
        store.append(new, layout)

    def _other_padding(self, rows: Rows, args: tuple[Any, ...], kwargs: dict[str, Any], state: Fingerprint) -> Answer:
        """The answer to the batch with one position less, or where it has but one, more."""
        tensors, nesting = split((args, kwargs))
        for number, tensor in enumerate(tensors):
            if is_cut(tensor, rows):
                shorter = tensor[:, :-1] if tensor.shape[1] > 1 else paddle.concat([tensor, tensor], axis=1)
                tensors[number] = shorter.clone()  # a slice is a view with gaps
        args, kwargs = join(nesting, tensors)
        return self._engine(args, kwargs, state)

    def _check_size(self, store: Store, layout: Layout, lengths: dict[bytes, int]) -> None:
        """Refuses what will be too large, before a byte of it is written."""
        known = len(store) + len(lengths)
        size = store.size + sum(layout.row_size(length) + ENTRY_SIZE for length in lengths.values())
        needed = size * max(self._cache.rows, known) // known
        if needed > self._cache.max_bytes:
            raise ConfigError(
                f"cache_teacher: {self._cache.rows} rows like the {known} so far need {needed:,} bytes, more than "
                f"max_bytes={self._cache.max_bytes:,}; map fewer layers or raise max_bytes"
            )


def _read(store: Store, rows: Rows) -> Answer:
    """The answer to rows that are all known."""
    if store.layout is None:
        raise ConfigError("cache_teacher: there is no answer to a batch without rows")
    count = len(rows.keys)
    arrays = []
    for number, field in enumerate(store.layout.fields):
        array = np.zeros([count, *([rows.padded or 0] if field.positions else []), *field.shape], field.bits)
        for row, (key, length) in enumerate(zip(rows.keys, rows.lengths, strict=True)):
            place = array[row, :length] if field.positions else array[row : row + 1]
            place[...] = store.read(key, number).reshape(place.shape)
        arrays.append(array)
    mask = None
    if rows.padded is not None and bool((rows.lengths < rows.padded).any()):
        mask = paddle.to_tensor(np.arange(rows.padded) < rows.lengths[:, None])
    return store.layout.answer(arrays, mask)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
