"""Warnings of other libraries about themselves, which a user can do nothing about."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

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


@contextmanager
def quiet_translation() -> Iterator[None]:
    """Inside the block Paddle translates a model without a warning about its own tensors."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=_IN_TRANSLATION)
        yield
