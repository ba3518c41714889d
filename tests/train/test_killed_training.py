"""Whenever a training is killed, the resumed one ends with the bits of one that was not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import killed_training
from forked import run


def trained(folder: Path, kills: int, ranks: int) -> tuple[int, int, str]:
    """How many runs were killed, how many kills cut a save short, and the hash at the end."""
    assert run(killed_training.main, folder, kills, ranks) == 0
    killed, cut_short, digest = json.loads((folder / "outcome.json").read_text())
    return killed, cut_short, digest


@pytest.mark.slow
@pytest.mark.parametrize(("ranks", "kills"), [(1, 20), (2, 5)])
def test_a_training_killed_at_random_moments_ends_as_one_that_was_not(ranks: int, kills: int, tmp_path: Path) -> None:
    _, _, expected = trained(tmp_path / "whole", 0, ranks)
    killed, cut_short, found = trained(tmp_path / "killed", kills, ranks)
    assert killed == kills
    assert ranks > 1 or cut_short > 0
    assert found == expected
