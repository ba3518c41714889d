from __future__ import annotations

import os

# One thread, so that sums come out the same on every machine; before Paddle is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import paddle
import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "deterministic",
    derandomize=True,
    deadline=None,
    database=None,
    max_examples=20,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
settings.load_profile("deterministic")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    paddle.seed(0)
