"""Two processes with half of each batch end where one process with whole batches does."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import PIPE, STDOUT
from typing import Any

import numpy as np
import paddle
import pytest
from hypothesis import given
from hypothesis import strategies as st
from paddle import distributed

import fleet_training
import parallel_training
import two_launchers
from launching import free_port, launched
from ofa_slim.errors import ConfigError
from ofa_slim.train.parallel import alone as one_process
from ofa_slim.train.parallel import mean_over_ranks, own_rows, training_rows

Found = dict[str, Any]


@pytest.fixture(scope="module")
def alone() -> Found:
    all_reduce = distributed.all_reduce
    try:
        return parallel_training.run()
    finally:
        distributed.all_reduce = all_reduce


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[Found]:
    """What each of two processes found."""
    folder = tmp_path_factory.mktemp("ranks")
    return launched(parallel_training.main, folder)


def under(found: Found, prefix: str) -> Found:
    return {name: value for name, value in found.items() if name.startswith(prefix)}


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_weights_and_losses_are_those_of_one_process(optimizer: str, alone: Found, ranks: list[Found]) -> None:
    for found in ranks:
        np.testing.assert_allclose(found[f"{optimizer}/losses"], alone[f"{optimizer}/losses"], atol=1e-5)
        for part in ("weights", "projections"):
            expected = under(alone, f"{optimizer}/{part}/")
            assert expected
            for name, value in expected.items():
                # The gradient of a key's bias is zero but for rounding, of which AdamW makes whole steps.
                if optimizer == "sgd" or not name.endswith("k_proj.bias"):
                    np.testing.assert_allclose(found[name], value, atol=1e-5, err_msg=name)
    assert alone[f"{optimizer}/losses"][-4:].mean() < alone[f"{optimizer}/losses"][:4].mean()


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_every_process_samples_the_same_sub_networks(optimizer: str, alone: Found, ranks: list[Found]) -> None:
    name = f"{optimizer}/sampled"
    assert len(set(alone[name])) > 5
    for found in ranks:
        assert found[name].tolist() == alone[name]


def test_gradients_meet_once_per_step_whatever_the_number_of_sub_networks(alone: Found, ranks: list[Found]) -> None:
    trained = [*under(alone, "sgd/weights/").values(), *under(alone, "sgd/projections/").values()]
    sizes = sum(value.size + 1 for value in trained)
    for found in ranks:
        assert found["sgd/sent"].tolist() == [[sizes]] * parallel_training.STEPS
    assert alone["sgd/sent"] == [[]] * parallel_training.STEPS


def test_a_parameter_that_no_process_used_has_no_gradient(ranks: list[Found]) -> None:
    for found in ranks:
        unused = under(found, "nobody/gradients/body.layers.0.")
        assert len(unused) == 16
        assert all(value.size == 0 for value in unused.values())
        assert found["nobody/gradients/embed.weight"].size


@pytest.mark.parametrize("case", ["nobody", "one", "one, apart"])
def test_gradients_are_those_of_one_process_where_not_all_have_them(
    case: str, alone: Found, ranks: list[Found]
) -> None:
    for found in ranks:
        assert found[f"{case}/in place"]
        for name, value in under(alone, f"{case}/gradients/").items():
            np.testing.assert_allclose(found[name], value, atol=1e-6, err_msg=name)


def test_a_small_limit_makes_more_buffers(ranks: list[Found]) -> None:
    for found in ranks:
        assert found["one/buffers"] == 1
        assert found["one, apart/buffers"] == found["parameters"]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_the_average_fits_where_the_sum_would_not(dtype: str, alone: Found, ranks: list[Found]) -> None:
    for found in ranks:
        np.testing.assert_array_equal(found[f"shared/{dtype}"], alone[f"shared/{dtype}"])
        np.testing.assert_array_equal(found[f"alone/{dtype}"], alone[f"alone/{dtype}"] / 2)


def test_rows_come_together_in_their_original_order(alone: Found, ranks: list[Found]) -> None:
    for found in ranks:
        assert found["labels"].tolist() == list(range(7))
        np.testing.assert_allclose(found["predictions"], alone["predictions"], atol=1e-6)
        assert found["single row"].tolist() == [[1.0, 1.0]]
        assert found["no row"].shape == (0, 2)
        assert found["mean"].tolist() == [0.5, 0.5]


def test_one_process_writes(alone: Found, ranks: list[Found]) -> None:
    assert [bool(found["writes"]) for found in (alone, *ranks)] == [True, True, False]


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        ("before start", "ParallelError: this is one of 2 processes, but they were not joined; call parallel.start()"),
        (
            "differing text",
            "ParallelError: the sub-network differs between processes: rank 0 has 'width 0', not so ranks [1]; the "
            "first of them has 'width 1'",
        ),
        (
            "differing models",
            "ParallelError: the model of rank 1 has weight [2, 3] paddle.float32 where that of rank 0 has weight ",
        ),
        (
            "differing rows",
            "ParallelError: rows to gather differ in shape or dtype between processes: [2] float64, [3] float64",
        ),
        ("sparse", "ConfigError: the gradient of 'embedding"),
    ],
)
def test_mistakes_are_errors_on_every_process_and_no_deadlock(
    mistake: str, message: str, alone: Found, ranks: list[Found]
) -> None:
    assert alone[mistake] == ""
    for found in ranks:
        assert str(found[mistake]).startswith(message)


@given(count=st.integers(0, 50), ranks=st.integers(1, 9), seed=st.integers(0, 9))
def test_shares_make_up_the_batch_and_their_weighted_means_its_mean(count: int, ranks: int, seed: int) -> None:
    values = np.random.default_rng(seed).normal(size=count)
    shares, means = [], []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distributed, "get_world_size", lambda: ranks)
        for rank in range(ranks):
            patch.setattr(distributed, "get_rank", lambda rank=rank: rank)
            shares.append(own_rows(count))
            if count:
                rows, weight = training_rows(count)
                means.append(weight * values[rows].mean())
    np.testing.assert_array_equal(np.concatenate([values[rows] for rows in shares]), values)
    sizes = [rows.stop - rows.start for rows in shares]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] - sizes[-1] <= 1
    if count:
        assert np.mean(means) == pytest.approx(values.mean())


def test_counts_that_cannot_be_are_named() -> None:
    with pytest.raises(ConfigError, match="count is -1"):
        own_rows(-1)
    with pytest.raises(ConfigError, match="count is 0"):
        training_rows(0)


def test_a_process_that_works_alone_waits_for_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "all_reduce", lambda values: values.add_(paddle.to_tensor(5.0)))
    mine = paddle.to_tensor(3.0)
    with one_process():
        assert float(mean_over_ranks(mine)) == 3
        assert own_rows(7) == slice(0, 7)
    assert float(mean_over_ranks(mine)) == 4


@pytest.mark.slow
def test_the_launchers_of_two_machines_meet(tmp_path: Path) -> None:
    """Paddle's own launcher, started once per machine as the docs say; here both are this one."""
    importlib.util.find_spec("paddlenlp")  # skips the test where it is to do without: the processes train a BERT
    script = Path(two_launchers.__file__)
    places = os.pathsep.join([str(script.parent), str(script.parents[2])])
    environment = {**os.environ, "PADDLE_DISTRI_BACKEND": "gloo", "PYTHONPATH": places}
    launcher = [sys.executable, "-m", "paddle.distributed.launch", "--master", f"127.0.0.1:{free_port()}"]
    machines = []
    for rank in range(2):
        options = [
            "--nnodes",
            "2",
            "--rank",
            str(rank),
            "--nproc_per_node",
            "1",
            "--log_dir",
            str(tmp_path / str(rank)),
        ]
        command = [*launcher, *options, str(script)]
        machines.append(subprocess.Popen(command, env=environment, stdout=PIPE, stderr=STDOUT, text=True))
    try:
        said = [machine.communicate(timeout=120)[0] for machine in machines]
    finally:
        for machine in machines:
            machine.kill()
    assert [machine.returncode for machine in machines] == [0, 0], said
    found = [line for text in said for line in text.splitlines() if line.startswith("rank ")]
    one = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True, check=True)
    total = one.stdout.rpartition(" ")[2].strip()
    assert found == [f"rank {rank} of 2: {total}" for rank in range(2)]


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "said"), [("1", "atexit, taken apart, "), ("2", "atexit, ")])
def test_a_process_among_several_leaves_before_it_is_taken_apart(processes: str, said: str) -> None:
    script = """
import atexit
from ofa_slim import parallel

class Thing:
    def __del__(self):
        print("taken apart", end=", ")

thing = Thing()
atexit.register(print, "atexit", end=", ")
parallel.leave(3)
"""
    environment = {**os.environ, "PADDLE_TRAINERS_NUM": processes}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 3, done.stderr
    assert done.stdout == said


@pytest.mark.slow
@pytest.mark.parametrize("main", [fleet_training.data_parallel, fleet_training.sharded])
def test_fleet_trains_as_one_process_does(main: Callable[[Path], None], tmp_path: Path) -> None:
    one, two = launched(main, tmp_path)
    alone = fleet_training.run()
    assert set(one) == set(two) == set(alone)
    for name, value in alone.items():
        np.testing.assert_array_equal(one[name], two[name], err_msg=name)
        np.testing.assert_allclose(one[name], value, atol=1e-6, err_msg=name)
