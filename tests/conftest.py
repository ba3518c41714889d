from __future__ import annotations

import multiprocessing.process
import os
import platform
import subprocess
import sys
from collections.abc import Generator, Iterator
from importlib.abc import MetaPathFinder
from importlib.util import find_spec
from pathlib import Path
from typing import Any

# One thread, so that sums come out the same on every machine; before Paddle is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Each test measures for itself.
os.environ["OFA_SLIM_CACHE"] = ""

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

platform.processor()  # starts `uname` the first time and remembers its answer


class _WithoutPaddleNLP(MetaPathFinder):
    """Skips every test, or file of tests, that comes to import PaddleNLP, itself or through the library."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name.partition(".")[0] == "paddlenlp":
            pytest.skip("needs PaddleNLP", allow_module_level=True)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--without-paddlenlp", action="store_true", help="skip the tests that need PaddleNLP")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("without_paddlenlp") or find_spec("paddlenlp") is None:
        sys.meta_path.insert(0, _WithoutPaddleNLP())


# Fixtures that start processes.
STARTS_PROCESSES = {"forked_models", "ranks", "small_disk"}


# Files that take longest start first, so that no worker has one of them left when the other is done.
LONGEST = (
    "test_own_data_runs.py",
    "test_family_formats.py",
    "test_formats.py",
    "test_cli.py",
    "test_compat.py",
    "test_latency.py",
    "test_hidden.py",
    "test_search_processes.py",
    "test_killed_training.py",
    "test_example_training.py",
    "test_example_stages.py",
    "test_readme.py",
    "test_search.py",
    "test_families.py",
    "test_trainer.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))
    for item in items:
        if STARTS_PROCESSES & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slow)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Only tests that are marked slow start processes, so that `make quick` starts none."""

    start = subprocess.Popen.__init__

    def refused(process: object, *command: Any, **options: Any) -> None:
        if command and list(command[0])[:2] == ["file", "-b"]:  # VisualDL asks for the platform when it is imported
            return start(process, *command, **options)  # type: ignore[arg-type]
        pytest.fail("a test that starts a process is marked slow: @pytest.mark.slow")

    with pytest.MonkeyPatch.context() as patch:
        if item.get_closest_marker("slow") is None:
            patch.setattr(subprocess.Popen, "__init__", refused)
            patch.setattr(multiprocessing.process.BaseProcess, "start", refused)
        return (yield)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    paddle.seed(0)


@pytest.fixture(scope="module")
def forked_models() -> Iterator[None]:
    """Written models run in processes that are forked, where nothing depends on the process being a new one."""
    import forked

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess, "Popen", forked.popen)
        yield


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A recipe for the example, with text and a small model."""
    from example_runs import recipe_file  # imports PaddleNLP

    return recipe_file(tmp_path)
