"""Whenever a training is killed, the resumed one ends with the bits of one that was not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "killed_training.py"


def trained(folder: Path, kills: int, ranks: int) -> tuple[int, int, str]:
    """How many runs were killed, how many kills cut a save short, and the hash at the end."""
    command = [sys.executable, "-W", "ignore", str(SCRIPT), str(folder), str(kills), str(ranks)]
    root = SCRIPT.parent.parent
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), str(root / "examples")])}
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    killed, cut_short, digest = done.stdout.split()[-3:]
    return int(killed), int(cut_short), digest


@pytest.mark.parametrize(("ranks", "kills"), [(1, 20), (2, 5)])
def test_a_training_killed_at_random_moments_ends_as_one_that_was_not(ranks: int, kills: int, tmp_path: Path) -> None:
    _, _, expected = trained(tmp_path / "whole", 0, ranks)
    killed, cut_short, found = trained(tmp_path / "killed", kills, ranks)
    assert killed == kills
    assert ranks > 1 or cut_short > 0
    assert found == expected
