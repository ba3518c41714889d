"""Warnings of other libraries about themselves, which a user of a command can do nothing about."""

from __future__ import annotations

import warnings


def quiet_third_parties() -> None:
    """Silences warnings of other libraries about themselves, on import and in tracing."""
    for message in (
        "No ccache found",
        "When training, we now always track global mean and variance",
        "Setuptools is replacing distutils",
        "Tensor do not have .place. interface",
        ".pydantic.config.Extra. is deprecated",
    ):
        warnings.filterwarnings("ignore", message=message)
