from __future__ import annotations

import os
import sys
from importlib.abc import MetaPathFinder
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


class _WithoutPaddleNLP(MetaPathFinder):
    """Skips every test, or file of tests, that comes to import PaddleNLP, itself or through the library."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name.partition(".")[0] == "paddlenlp":
            pytest.skip("needs PaddleNLP", allow_module_level=True)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--without-paddlenlp", action="store_true", help="skip the tests that need PaddleNLP")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("without_paddlenlp"):
        sys.meta_path.insert(0, _WithoutPaddleNLP())


@pytest.fixture(autouse=True)
def _seeded() -> None:
    paddle.seed(0)


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A recipe for the example, with text and a small model."""
    from example_runs import recipe_file  # imports PaddleNLP

    return recipe_file(tmp_path)
