"""The comparison of the settings that something was made with and those of now."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def differences(there: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> list[str]:
    """One text for each key in which two settings differ; keys of nested ones are joined by dots."""
    found = []
    for key in dict.fromkeys([*there, *now]):
        name = f"{prefix}{key}"
        if key not in there or key not in now:
            found.append(f"{name} (only there: {there[key]!r})" if key in there else f"{name} (only now: {now[key]!r})")
            continue
        old, new = there[key], now[key]
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += differences(old, new, f"{name}.")
        # By their texts, as NaN is not equal to itself, and 1, 1.0 and True are.
        elif repr(old) != repr(new):
            found.append(f"{name} ({old!r} there, {new!r} now)")
    return found
