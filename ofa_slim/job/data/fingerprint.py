"""Fingerprints of data files, so that data that was edited is noticed."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path

BLOCK = 1 << 20


def fingerprints(files: Mapping[str, Path]) -> dict[str, str] | None:
    """A fingerprint of the content of each file, by its name; None where one is not there."""
    found = {}
    for name, file in files.items():
        digest = blake2b(digest_size=8)
        try:
            with file.open("rb") as content:
                while block := content.read(BLOCK):
                    digest.update(block)
        except OSError:
            return None
        found[name] = digest.hexdigest()
    return found
