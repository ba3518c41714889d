"""Keeps the thread counts of Paddle's math libraries, which Paddle Inference sets to one.

Opening or running a predictor leaves MKL and OpenMP with a single thread for the whole process (3.3.1): training in the
same process then takes twice as long on two cores. Paddle has no call to set the counts back; the libraries have.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import paddle

# The libraries in Paddle's CPU wheels, and their functions that get and set the thread count.
_LIBRARIES = (
    ("libmklml_intel.so", "MKL_Get_Max_Threads", "MKL_Set_Num_Threads"),
    ("libiomp5.so", "omp_get_max_threads", "omp_set_num_threads"),
)


@contextmanager
def threads_kept() -> Iterator[None]:
    """Puts the thread counts back after the block."""
    before = [(set_count, get_count()) for get_count, set_count in _counts()]
    try:
        yield
    finally:
        for set_count, count in before:
            set_count(count)


def threads() -> int:
    """The number of threads that Paddle uses: `OMP_NUM_THREADS`, 1 by default."""
    text = os.environ.get("OMP_NUM_THREADS", "1").split(",")[0]
    return int(text) if text.isdigit() and int(text) > 0 else 1


@cache
def _counts() -> list[tuple[Callable[[], int], Callable[[int], None]]]:
    """The functions that get and set the count of each library that Paddle has loaded."""
    functions = []
    for name, get_count, set_count in _LIBRARIES:
        path = Path(paddle.__file__).parent / "libs" / name
        try:
            library = ctypes.CDLL(str(path), mode=os.RTLD_NOLOAD | os.RTLD_LAZY)
        except OSError:  # this Paddle does not have it, or did not load it
            continue
        functions.append((getattr(library, get_count), getattr(library, set_count)))
    return functions
