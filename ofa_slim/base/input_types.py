"""Arrays in the type that a written model takes."""

from __future__ import annotations

import numpy as np

from ofa_slim.errors import ExportError


def as_type(name: str, value: np.ndarray, dtype: str) -> np.ndarray:
    """An input in the type that a program was written with; engines take no other.

    Integers become integers of another size where every value fits, floats become floats.

    Args:
        name: of the input, for the error.
        value: any shape.
        dtype: as NumPy names it, such as ``int64``.

    Raises: ExportError for another kind of type, or for integers that do not fit.
    """
    given = np.asarray(value)
    wanted = np.dtype(dtype)
    if given.dtype == wanted:
        return given
    if given.dtype.kind in "iu" and wanted.kind in "iu":
        bounds = np.iinfo(wanted)
        if not given.size or (bounds.min <= int(given.min()) and int(given.max()) <= bounds.max):
            return given.astype(wanted)
        raise ExportError(
            f"input {name!r} goes from {given.min()} to {given.max()}, and the model takes {wanted}: "
            f"{bounds.min} to {bounds.max}"
        )
    if given.dtype.kind == wanted.kind == "f":
        return given.astype(wanted)
    raise ExportError(f"input {name!r} is {given.dtype}, and the model takes {wanted}")
