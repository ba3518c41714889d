"""Rows of answers on disk, sound whenever the process that writes them is killed.

A directory holds ``layout.json`` (what a row has), one file of bytes per tensor, and ``index.bin`` with an entry of
fixed size per row: its key, its length, where its positions begin, and checksums of its bytes and of the entry. Bytes
are written before the entry. An entry that is cut off or damaged counts as none; its bytes are written over or left
alone. Nothing is ever changed behind a sound entry.

Files are written with plain writes, so that a full disk is an error and not a signal, and read through memory maps.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import struct
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np

from ofa_slim.base.files import atomic_file
from ofa_slim.base.foreign import check_contents
from ofa_slim.base.json_files import read_json
from ofa_slim.errors import ConfigError
from ofa_slim.train.teacher.keys import KEY_SIZE
from ofa_slim.train.teacher.layout import Layout

logger = logging.getLogger(__name__)

LAYOUT_FILE = "layout.json"
INDEX_FILE = "index.bin"
LOCK_FILE = "lock"
_FORMAT = 1

# Key, length, first position, checksum of the row's bytes; a checksum of these follows.
_ENTRY = struct.Struct(f"<{KEY_SIZE}sIQI")
_CHECK = struct.Struct("<I")
ENTRY_SIZE = _ENTRY.size + _CHECK.size


@dataclass(frozen=True)
class Row:
    """A row to be stored.

    Attributes:
        key: its key.
        length: its positions.
        parts: its bits, one array for each field, cut to its length.
    """

    key: bytes
    length: int
    parts: Sequence[np.ndarray]


@dataclass(slots=True)
class _Entry:
    """Where a row is."""

    slot: int
    length: int
    start: int
    checksum: int
    checked: bool


class Store:
    """The rows of one teacher.

    Args:
        folder: their directory; it is made when the first row is stored.
        layers: the mapped layers that a row has.

    Attributes:
        layout: what a row has; None before the first.

    Raises: ConfigError where the directory is in use, or holds rows of another form.
    """

    def __init__(self, folder: Path, layers: Sequence[str]) -> None:
        self.layout: Layout | None = None
        self._folder = folder
        self._layers = sorted(layers)
        self._entries: dict[bytes, _Entry] = {}
        self._slots = 0
        self._positions = 0
        self._files: list[_File] = []
        self._unlock: weakref.finalize[Any, Any] | None = None
        self._warned = False
        if folder.is_dir():
            self._open()

    def __len__(self) -> int:
        """How many rows are known."""
        return len(self._entries)

    def __contains__(self, key: bytes) -> bool:
        """Whether a row is known and its bytes are what was written."""
        entry = self._entries.get(key)
        if entry is None:
            return False
        if not entry.checked:
            found = [self._read(entry, number) for number in range(len(self._files))]
            if any(part is None for part in found) or _checksum(found) != entry.checksum:
                self._warn()
                del self._entries[key]
                return False
            entry.checked = True
        return True

    @property
    def size(self) -> int:
        """Bytes on disk."""
        if self.layout is None:
            return 0
        fields = sum(field.size * (self._positions if field.positions else self._slots) for field in self.layout.fields)
        return fields + ENTRY_SIZE * self._slots

    def read(self, key: bytes, number: int) -> np.ndarray:
        """The bits of one field of a known row, flat, as they lie in the file."""
        found = self._read(self._entries[key], number)
        if found is None:
            raise ConfigError(f"{self._folder}: a file became shorter while it was in use")
        return found

    def append(self, rows: Sequence[Row], layout: Layout) -> None:
        """Stores rows; one that is known already stays as it is.

        Raises: ConfigError where the directory is in use by now, or holds rows of another form.
        """
        if self._unlock is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._open()
        if self.layout is None:
            self._create(layout)
        elif self.layout != layout:
            raise ConfigError(f"{self._folder} holds rows of another form; give cache_teacher another directory")
        rows = list({row.key: row for row in reversed(rows) if row.key not in self._entries}.values())
        starts = np.cumsum([self._positions, *(row.length for row in rows)]).tolist()
        for number, (file, field) in enumerate(zip(self._files, layout.fields, strict=True)):
            offset = field.size * (self._positions if field.positions else self._slots)
            file.write(offset, b"".join(row.parts[number].tobytes() for row in rows))
        entries = {
            row.key: _Entry(slot, row.length, start, _checksum(row.parts), checked=True)
            for slot, (row, start) in enumerate(zip(rows, starts[:-1], strict=True), self._slots)
        }
        packed = [_ENTRY.pack(key, entry.length, entry.start, entry.checksum) for key, entry in entries.items()]
        _File(self._folder / INDEX_FILE).write(ENTRY_SIZE * self._slots, b"".join(map(_sealed, packed)))
        self._entries.update(entries)
        self._slots += len(rows)
        self._positions = starts[-1]

    def close(self) -> None:
        """Lets another process have the directory; this one is of no use any more."""
        if self._unlock is not None:
            self._unlock()

    def _open(self) -> None:
        check_contents(self._folder, ConfigError)
        descriptor = _locked(self._folder)
        self._unlock = weakref.finalize(self, os.close, descriptor)
        try:
            self._load()
        except ConfigError:
            self.close()
            raise

    def _load(self) -> None:
        file = self._folder / LAYOUT_FILE
        if not file.is_file():
            return  # whoever made the directory was killed before there was a row
        layout = _read_layout(file)
        if layout.layers != self._layers:
            raise ConfigError(
                f"{self._folder} holds rows with the mapped layers {layout.layers}, and {self._layers} are mapped now; "
                "give cache_teacher another directory, or remove this one"
            )
        self._use(layout)
        self._read_index()

    def _create(self, layout: Layout) -> None:
        about = {"format": _FORMAT, **layout.to_json()}
        (self._folder / INDEX_FILE).write_bytes(b"")
        self._use(layout)
        text = json.dumps({"about": about, "checksum": _json_checksum(about)}) + "\n"
        with atomic_file(self._folder / LAYOUT_FILE) as aside:
            aside.write_text(text, encoding="utf-8")

    def _use(self, layout: Layout) -> None:
        self.layout = layout
        self._files = [_File(self._folder / f"field-{number}.bin") for number in range(len(layout.fields))]

    def _read_index(self) -> None:
        file = self._folder / INDEX_FILE
        packed = file.read_bytes() if file.is_file() else b""
        self._slots = len(packed) // ENTRY_SIZE
        for slot in range(self._slots):
            sealed = packed[ENTRY_SIZE * slot : ENTRY_SIZE * (slot + 1)]
            if sealed != _sealed(sealed[: _ENTRY.size]):
                self._warn()
                continue
            key, length, start, checksum = _ENTRY.unpack(sealed[: _ENTRY.size])
            # A row is stored a second time only where the bytes of the first were damaged.
            self._entries[key] = _Entry(slot, length, start, checksum, checked=False)
            self._positions = max(self._positions, start + length)

    def _read(self, entry: _Entry, number: int) -> np.ndarray | None:
        """The bits of one field; None where the file ends before them."""
        if self.layout is None:
            return None
        field = self.layout.fields[number]
        offset = entry.start if field.positions else entry.slot
        count = entry.length if field.positions else 1
        found = self._files[number].read(field.size * offset, field.size * count)
        return None if found is None else found.view(field.bits)

    def _warn(self) -> None:
        if not self._warned:
            logger.warning("%s: rows were damaged; the teacher answers them again", self._folder)
            self._warned = True


class _File:
    """Bytes that grow at the end."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._map = np.empty(0, np.uint8)
        path.touch()

    def write(self, offset: int, data: bytes) -> None:
        """Writes at a place; they are in the file, safe from the end of this process, when it returns."""
        with self._path.open("r+b") as file:
            file.seek(offset)
            file.write(data)

    def read(self, offset: int, size: int) -> np.ndarray | None:
        """A view of bytes; None where the file ends before them."""
        if size == 0:
            return np.empty(0, np.uint8)
        if offset + size > len(self._map):
            if offset + size > self._path.stat().st_size:
                return None
            # A plain array: slicing a `memmap` is ten times as slow.
            self._map = np.asarray(np.memmap(self._path, np.uint8, "r"))
        return self._map[offset : offset + size]


def _locked(folder: Path) -> int:
    """The descriptor of a directory's lock file; the system lets go of the lock when the process ends in any way."""
    descriptor = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.read(descriptor, 20).decode("ascii", "replace").strip() or "unknown"
        os.close(descriptor)
        this = " (this one)" if owner == str(os.getpid()) else ""
        raise ConfigError(
            f"{folder} is in use by process {owner}{this}; a cache has one user at a time: give each a directory of "
            "its own, or call ofa.teacher_cache.close() there"
        ) from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor


def _checksum(parts: Sequence[np.ndarray | None]) -> int:
    checksum = 0
    for part in parts:
        if part is not None and part.size:
            checksum = crc32(part.data, checksum)
    return checksum


def _sealed(entry: bytes) -> bytes:
    return entry + _CHECK.pack(crc32(entry))


def _json_checksum(about: Any) -> str:
    return blake2b(json.dumps(about, sort_keys=True).encode(), digest_size=KEY_SIZE).hexdigest()


def _read_layout(file: Path) -> Layout:
    try:
        written = read_json(file)
        about, checksum = written["about"], written["checksum"]
    except (UnicodeDecodeError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{file} is damaged; remove {file.parent}: {error}") from error
    if checksum != _json_checksum(about):
        raise ConfigError(f"{file} is damaged: its checksum does not fit; remove {file.parent}")
    number = about.get("format") if isinstance(about, dict) else None
    if number != _FORMAT:
        raise ConfigError(f"{file} is of format {number!r}, not {_FORMAT}; give another directory")
    try:
        return Layout.from_json(about)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{file} describes no rows of a teacher's answer ({error}); remove {file.parent}") from error
