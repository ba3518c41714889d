"""What the tests of jobs share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ofa_slim.export.formats.processes import SERVED, time_models


@pytest.fixture(scope="session", autouse=True)
def timed_in_passing() -> Iterator[None]:
    """No test depends on how fast anything is, so models are loaded once to be timed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time_models, "__defaults__", (SERVED, 1))
        yield
