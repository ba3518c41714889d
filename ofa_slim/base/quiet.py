"""Warnings of other libraries about themselves, which a user can do nothing about."""

from __future__ import annotations

import io
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr

_IN_TRANSLATION = "Tensor do not have .place. interface"


def quiet_third_parties() -> None:
    """Silences warnings of other libraries about themselves, on import and in tracing."""
    for message in (
        "No ccache found",
        "When training, we now always track global mean and variance",
        "Setuptools is replacing distutils",
        _IN_TRANSLATION,
        ".pydantic.config.Extra. is deprecated",
    ):
        warnings.filterwarnings("ignore", message=message)


def import_paddle_quietly() -> None:
    """Imports Paddle without its advice against several threads; its C++ part will write errors alone.

    ``GLOG_minloglevel`` in the environment says otherwise.
    """
    os.environ.setdefault("GLOG_minloglevel", "2")
    with redirect_stderr(io.StringIO()) as said:
        import paddle  # noqa: F401  (imported for what it says)
    sys.stderr.writelines(line for line in said.getvalue().splitlines(True) if "OMP_NUM_THREADS" not in line)


@contextmanager
def quiet_translation() -> Iterator[None]:
    """Inside the block Paddle translates a model without a warning about its own tensors."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=_IN_TRANSLATION)
        yield
