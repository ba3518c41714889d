"""Searches that are killed, and searches that several processes share."""

from __future__ import annotations

import json
import multiprocessing.process
import signal
from pathlib import Path

import pytest

import search_runs
from forked import FORKED

pytestmark = pytest.mark.slow


def start(*arguments: object) -> multiprocessing.process.BaseProcess:
    process = FORKED.Process(target=search_runs.main, args=arguments)
    process.start()
    return process


def test_a_killed_search_ends_as_one_that_was_not(tmp_path: Path) -> None:
    (tmp_path / "killed").mkdir()
    # While the original and the uniform sub-networks are scored, at the optimiser's, at the regressor's.
    for count in (4, 12, 17):
        killed = start(tmp_path / "killed", count, "killed")
        killed.join()
        assert killed.exitcode == -signal.SIGKILL
    (tmp_path / "whole").mkdir()
    runs = [start(tmp_path / "killed", None, "resumed"), start(tmp_path / "whole", None, "whole")]
    for process in runs:
        process.join()
    assert [process.exitcode for process in runs] == [0, 0]
    resumed, whole = (tmp_path / "killed" / "resumed.json", tmp_path / "whole" / "whole.json")
    assert json.loads(resumed.read_text()) == json.loads(whole.read_text())


def test_two_processes_finish_one_search_with_no_point_lost_or_doubled(tmp_path: Path) -> None:
    workers = [start(tmp_path, None, f"result-{number}", True) for number in range(2)]
    for process in workers:
        process.join()
    assert [process.exitcode for process in workers] == [0, 0]
    first, second = (json.loads((tmp_path / f"result-{number}.json").read_text()) for number in range(2))
    assert first == second, "both read the same result"
    configs = [json.dumps(config, sort_keys=True) for config, _ in first]
    assert len(configs) == len(set(configs)) == 20
    scored = [json.loads(file.read_text()) for file in tmp_path.glob("scored-*.json")]
    assert len(scored) == 2
    assert sorted(config for configs in scored for config in configs) == sorted(configs), "each was scored once"
    assert all(scored), "both worked"
