"""Keeping the thread counts of Paddle's math libraries, which Paddle Inference sets to one.

Opening or running a predictor leaves MKL and OpenMP with a single thread for the whole process (3.3.1): whatever trains
beside it then takes twice as long on two cores. Paddle has no call to set them back; the libraries have.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import paddle

# The libraries in Paddle's CPU wheels, and what they call getting and setting their thread count.
_LIBRARIES = (
    ("libmklml_intel.so", "MKL_Get_Max_Threads", "MKL_Set_Num_Threads"),
    ("libiomp5.so", "omp_get_max_threads", "omp_set_num_threads"),
)


@contextmanager
def threads_kept() -> Iterator[None]:
    """Whatever thread counts are set inside the block, behind it they are as before."""
    before = [(give, get()) for get, give in _counts()]
    try:
        yield
    finally:
        for give, count in before:
            give(count)


def threads() -> int:
    """How many threads Paddle was told to use: `OMP_NUM_THREADS`, or one as is its default."""
    text = os.environ.get("OMP_NUM_THREADS", "1").split(",")[0]
    return int(text) if text.isdigit() and int(text) > 0 else 1


@cache
def _counts() -> list[tuple[Callable[[], int], Callable[[int], None]]]:
    """How to get and set the count of each library that Paddle has loaded; none where it was built without."""
    found = []
    for name, get, give in _LIBRARIES:
        path = Path(paddle.__file__).parent / "libs" / name
        try:
            library = ctypes.CDLL(str(path), mode=os.RTLD_NOLOAD | os.RTLD_LAZY)
        except OSError:  # it is not there, or was not loaded
            continue
        found.append((getattr(library, get), getattr(library, give)))
    return found
