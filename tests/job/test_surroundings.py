"""What surrounds a command: a reader that closes the pipe, a locale without Chinese, few descriptors, a clock."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from ofa_slim.cli import main
from ofa_slim.train.checkpoint import CheckpointManager

ROOT = Path(__file__).parents[2]


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-W", "ignore", "-m", "ofa_slim.cli", *arguments]


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), **more}


@pytest.mark.slow
def test_a_reader_that_closes_the_pipe_ends_the_command_without_a_word() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        command("recipe"), stdout=writer, stderr=subprocess.PIPE, text=True, env=environment(), check=False
    )
    os.close(writer)
    assert done.stderr == ""
    assert done.returncode == 141


@pytest.mark.slow
def test_recipes_and_folders_with_chinese_names_under_a_plain_locale(tmp_path: Path) -> None:
    file = tmp_path / "配方.yaml"
    file.write_text("task: 情感", encoding="utf-8")
    done = subprocess.run(
        command("compress", str(file), "--output_dir", str(tmp_path / "输出")),
        capture_output=True, env=environment(LANG="C", LC_ALL="C", PYTHONIOENCODING="ascii"), check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert b"Traceback" not in done.stderr
    assert b"key 'task' is" in done.stderr


def test_too_few_descriptors_are_an_error_that_names_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "recipe.yaml").write_text("epochs: 1", encoding="utf-8")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.open(os.devnull, os.O_RDONLY)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        status = main(["compress", str(tmp_path / "recipe.yaml")])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert status == 2
    assert "recipe.yaml: cannot read the recipe (Too many open files)" in capsys.readouterr().err


def test_a_clock_that_steps_back_harms_no_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    manager = CheckpointManager(tmp_path / "run", keep=2)
    for step, hour in enumerate((30, 20, 10), start=1):
        monkeypatch.setattr(time, "time", lambda hour=hour: 3600.0 * hour)
        manager.save(step, {"rng": rng})
        for folder in (tmp_path / "run").iterdir():
            os.utime(folder, (3600.0 * hour, 3600.0 * hour))
    assert CheckpointManager(tmp_path / "run").restore({"rng": rng}) == 3
