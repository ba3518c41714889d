"""Searches that are killed, and searches that several processes share."""

from __future__ import annotations

import importlib.util
import json
import multiprocessing.process
import signal
import time
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

import search_runs
from forked import FORKED
from postgres import PROGRAMS, server

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def needs_paddlenlp() -> None:
    """Skips the tests where they are to do without: their processes search a BERT."""
    importlib.util.find_spec("paddlenlp")


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


def test_what_a_worker_of_another_machine_took_long_ago_is_scored_again(tmp_path: Path) -> None:
    killed = start(tmp_path, 4, "killed")
    killed.join()
    (name,) = optuna.get_all_study_names(url := f"sqlite:///{tmp_path / 'search' / 'search.db'}")
    study = optuna.load_study(study_name=name, storage=url)
    (left,) = study.get_trials(states=[TrialState.RUNNING])
    elsewhere = {"worker": "another-machine:1:1", "taken": time.time() - 2 * 3600}
    for key, value in elsewhere.items():
        study._storage.set_trial_user_attr(left._trial_id, key, value)
    main = start(tmp_path, None, "resumed")
    main.join()
    points = [json.dumps(config, sort_keys=True) for config, _ in json.loads((tmp_path / "resumed.json").read_text())]
    assert len(points) == len(set(points)) == 20


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


@pytest.mark.skipif(PROGRAMS is None, reason="no PostgreSQL is installed (Debian: apt-get install postgresql)")
def test_workers_on_a_database_server_lose_and_double_nothing_when_one_is_killed(tmp_path: Path) -> None:
    pytest.importorskip("psycopg2", reason="SQLAlchemy's driver for PostgreSQL is not installed")
    with server() as url:
        killed = start(tmp_path, 6, "killed", True, url)
        while killed.is_alive() and len(list(tmp_path.glob("*.scored"))) < 2:
            time.sleep(0.01)  # it must not be so late that the others have scored all
        workers = [start(tmp_path, None, f"result-{number}", True, url) for number in range(2)]
        for process in (killed, *workers):
            process.join()
    assert killed.exitcode == -signal.SIGKILL
    assert [process.exitcode for process in workers] == [0, 0]
    first, second = (json.loads((tmp_path / f"result-{number}.json").read_text()) for number in range(2))
    assert first == second
    configs = [json.dumps(config, sort_keys=True) for config, _ in first]
    assert len(configs) == len(set(configs)) == 20
    by_these = [config for file in tmp_path.glob("scored-*.json") for config in json.loads(file.read_text())]
    assert len(by_these) == len(set(by_these))
    assert len(by_these) + 6 >= 20, "the one that was killed had scored some of 6"
