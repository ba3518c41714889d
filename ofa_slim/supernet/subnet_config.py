"""`SubnetConfig`: one size per axis, which is what a sub-network is."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

import numpy as np

from ofa_slim.base.checks import check_kind
from ofa_slim.base.json_files import parse_json
from ofa_slim.errors import IllegalSubnetError


class SubnetConfig(Mapping[str, int]):
    """One size per axis: frozen, hashable, JSON both ways.

    Args:
        sizes: ``{axis name: size}``, sizes in units of the axis, each at least 1.

    Raises: IllegalSubnetError for a name or a size that no axis could have.
    """

    __slots__ = ("_hash", "_sizes")

    def __init__(self, sizes: Mapping[str, int]) -> None:
        check_kind(sizes, Mapping, "a config", IllegalSubnetError)
        for name, size in sizes.items():
            if not isinstance(name, str):
                raise IllegalSubnetError(f"axis name {name!r} is not a string")
            if isinstance(size, bool) or not isinstance(size, (int, np.integer)) or size < 0:
                raise IllegalSubnetError(f"axis {name!r}: size {size!r} is not a whole number of at least 0")
        self._sizes = {name: int(size) for name, size in sizes.items()}
        self._hash = hash(frozenset(self._sizes.items()))

    def __getitem__(self, name: str) -> int:
        """The size of an axis."""
        return self._sizes[name]

    def __iter__(self) -> Iterator[str]:
        """Iterates over the axis names."""
        return iter(self._sizes)

    def __len__(self) -> int:
        """The number of axes."""
        return len(self._sizes)

    def __hash__(self) -> int:
        """The hash, which does not depend on the order of the axes."""
        return self._hash

    def __eq__(self, other: object) -> bool:
        """Equal when every axis has the same size."""
        return self._sizes == other._sizes if isinstance(other, SubnetConfig) else NotImplemented

    def __repr__(self) -> str:
        """An expression for an equal config."""
        return f"SubnetConfig({self._sizes})"

    def to_json(self) -> str:
        """One line of JSON, axes in order of their names."""
        return json.dumps(self._sizes, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> SubnetConfig:
        """Reads what `to_json` wrote; raises `IllegalSubnetError` for anything else."""
        try:
            sizes = parse_json(text)
        except ValueError as error:
            raise IllegalSubnetError(f"not the JSON of a sub-network: {error}") from error
        if not isinstance(sizes, dict):
            raise IllegalSubnetError(f"not the JSON of a sub-network: {text[:40]!r} is not an object")
        return cls(sizes)
