"""The manifest of a checkpoint: what belongs to it, and how to tell whether it is all there."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import safetensors

from ofa_slim.base.foreign import check_contents, file_name
from ofa_slim.base.json_files import parse_json
from ofa_slim.base.version import __version__
from ofa_slim.train.checkpoint.codec import Encoded, decode, encode, render

MANIFEST = "manifest.json"
_FORMAT = 1


class CorruptError(Exception):
    """A checkpoint that is not as it was written; the message names the file."""


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint says of itself.

    Attributes:
        step: the step that it was saved behind.
        score: the score of that step, None without one.
        recipe: settings of the run.
        parts: what each part is.
        files: size in bytes and SHA-256 of every file, by name.
        versions: of what wrote it.
    """

    step: int
    score: float | None
    recipe: dict[str, Any]
    parts: dict[str, str]
    files: dict[str, dict[str, Any]]
    versions: dict[str, str]


def versions() -> dict[str, str]:
    """The versions of what a checkpoint depends on."""
    return {
        "ofa_slim": __version__,
        "paddle": paddle.version.full_version,
        "numpy": np.__version__,
        "safetensors": safetensors.__version__,
    }


def summed(files: Iterable[Path]) -> dict[str, dict[str, Any]]:
    """Size and SHA-256 of files by name."""
    return {file.name: {"size": file.stat().st_size, "sha256": _sha256(file)} for file in files}


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Writes ``manifest.json``, which also holds its own checksum."""
    (folder / MANIFEST).write_text(_sealed(encode({"format": _FORMAT, **asdict(manifest)}, MANIFEST).content), "utf-8")


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a checkpoint.

    Raises: CorruptError where it is not there, altered, or of another format.
    """
    check_contents(folder, CorruptError)
    file = folder / MANIFEST
    try:
        text = file.read_bytes().decode("utf-8")
        content = parse_json(text)
        content.pop("sha256")
    except OSError as error:
        raise CorruptError(f"{file}: {error.strerror}") from error
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise CorruptError(f"{file}: not a manifest ({error})") from error
    # Byte for byte, so that no change goes unseen.
    if text != _sealed(content):
        raise CorruptError(f"{file}: altered, its checksum does not match")
    try:
        known: dict[str, Any] = decode(Encoded(content))
        number = known.pop("format", None)
        if number != _FORMAT:
            raise CorruptError(f"{file}: format {number}, this version reads {_FORMAT}")
        manifest = Manifest(**known)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CorruptError(f"{file}: not a manifest ({error})") from error
    _check(file, manifest)
    return manifest


def _check(file: Path, manifest: Manifest) -> None:
    """Refuses entries of other kinds: a checksum says that a text is as it was written, not who wrote it."""
    kinds = {"step": int, "score": (int, float, type(None)), "recipe": dict, "parts": dict, "files": dict}
    for name, kind in kinds.items():
        value = getattr(manifest, name)
        if isinstance(value, bool) or not isinstance(value, kind):  # type: ignore[arg-type]
            raise CorruptError(f"{file}: {name!r} is {value!r}")
    for name, about in manifest.files.items():
        if not file_name(name) or not isinstance(about, dict) or set(about) != {"size", "sha256"}:
            raise CorruptError(f"{file}: 'files' has {name!r}: {about!r}, not size and checksum of a file beside it")


def verify(folder: Path, manifest: Manifest) -> None:
    """Reads every file of a checkpoint once.

    Raises: CorruptError for the first that is missing, truncated or altered.
    """
    for name, known in manifest.files.items():
        file = folder / name
        try:
            size = file.stat().st_size
            if size != known["size"]:
                raise CorruptError(f"{file}: {size} bytes, {known['size']} were written")
            if _sha256(file) != known["sha256"]:
                raise CorruptError(f"{file}: altered, its checksum does not match")
        except OSError as error:
            raise CorruptError(f"{file}: {error.strerror}") from error


def _sealed(content: dict[str, Any]) -> str:
    """The text of a manifest, with the checksum of the text without it."""
    digest = hashlib.sha256(render(content).encode("utf-8")).hexdigest()
    return render({**content, "sha256": digest})


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
