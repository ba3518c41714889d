"""Compares the settings that something was made with to the current ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def differences(there: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> list[str]:
    """One text for each key whose value differs; keys of nested settings are joined by dots."""
    texts = []
    for key in dict.fromkeys([*there, *now]):
        name = f"{prefix}{key}"
        if key not in there or key not in now:
            texts.append(f"{name} (only there: {there[key]!r})" if key in there else f"{name} (only now: {now[key]!r})")
            continue
        old, new = there[key], now[key]
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            texts += differences(old, new, f"{name}.")
        # Compared as text: NaN does not equal itself, while 1, 1.0 and True equal each other.
        elif repr(old) != repr(new):
            texts.append(f"{name} ({old!r} there, {new!r} now)")
    return texts
