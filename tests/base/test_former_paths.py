from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

import ofa_slim
from ofa_slim.base.former_paths import FORMER


@pytest.mark.parametrize("former", FORMER)
def test_a_former_path_is_the_module_itself(former: str) -> None:
    module = importlib.import_module(former)
    assert module is importlib.import_module(FORMER[former])
    assert module.__spec__ is not None
    assert module.__spec__.name == FORMER[former]


def test_the_function_pipeline_keeps_its_name_beside_the_module() -> None:
    from ofa_slim.pipeline import TextTask

    assert callable(ofa_slim.pipeline)
    assert TextTask.__module__ == "ofa_slim.export.formats.pipeline"


def test_names_that_never_were_are_not_found() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"ofa_slim\.latencies"):
        importlib.import_module("ofa_slim.latencies")


@pytest.mark.slow
def test_former_paths_come_first_in_a_fresh_process() -> None:
    code = "import ofa_slim.cost as one, ofa_slim.measure.cost as other; assert one is other"
    subprocess.run([sys.executable, "-c", code], check=True)
