from __future__ import annotations

import os
from pathlib import Path

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


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A recipe for the example, with text and a small model."""
    from example_runs import recipe_file  # imports PaddleNLP

    return recipe_file(tmp_path)
