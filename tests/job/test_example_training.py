"""The example's training: stopped and resumed, in groups of batches, with cached answers, in two processes."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from example_runs import run
from ofa_slim.job.run import Run
from ofa_slim.train.batches import Batches, Examples
from ofa_slim.train.feeds import ResumableSampler
from ofa_slim.train.loop import RuntimeOptions

ROOT = Path(__file__).parents[2]


def feed(rows: int = 22, batch_size: int = 4, epochs: int = 3, accumulate: int = 2, seed: int = 0) -> ResumableSampler:
    ids = [np.ones(length) for length in np.random.default_rng(1).integers(3, 9, rows)]
    examples = Examples({"input_ids": ids}, np.zeros(rows))
    return ResumableSampler(Batches(examples, batch_size), epochs, accumulate, np.random.default_rng(seed))


def groups(of: ResumableSampler, count: int) -> list[list[list[int]]]:
    return [[rows.tolist() for rows in of.next_rows()] for _ in range(count)]


def test_groups_go_through_every_row_once_per_epoch_in_new_orders() -> None:
    found = groups(feed(), 9)
    assert feed().steps == 9
    batches = [batch for group in found for batch in group]
    epochs = [[row for batch in batches[6 * epoch : 6 * epoch + 6] for row in batch] for epoch in range(3)]
    assert all(sorted(epoch) == list(range(22)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert [len(group) for group in groups(feed(epochs=1, accumulate=4), 2)] == [4, 2]


@pytest.mark.parametrize("done", range(10))
def test_a_feed_goes_on_from_where_another_one_was(done: int) -> None:
    whole = feed()
    expected = groups(whole, 9)
    first, second = feed(), feed(seed=7)
    groups(first, done)
    second.set_state_dict(json.loads(json.dumps(first.state_dict())))
    assert groups(second, 9 - done) == expected[done:]
    assert second.state_dict() == whole.state_dict()


def weights(folder: Path) -> dict[str, np.ndarray]:
    return load_file(folder / "train" / "model.safetensors")


def stopping_at(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sends SIGTERM after a step of each training."""
    plain = Run.options

    def options(self: Run, *arguments: object) -> RuntimeOptions:
        def after_step(step: int) -> None:
            if step == number:
                signal.raise_signal(signal.SIGTERM)

        return dataclasses.replace(plain(self, *arguments), after_step=after_step)  # type: ignore[arg-type]

    monkeypatch.setattr(Run, "options", options)


def test_a_training_that_was_stopped_goes_on_with_the_same_bits(
    recipe: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stages = ("--stages", "finetune,importance,reorder,train", "--strategy", "sandwich", "--supernet_rows", "40")
    whole, stopped = recipe.parent / "whole", recipe.parent / "stopped"
    assert run(recipe, *stages, "--output_dir", str(whole)) == 0
    arguments = (*stages, "--output_dir", str(stopped))
    with monkeypatch.context() as patched:
        stopping_at(5, patched)
        assert run(recipe, *arguments) == 128 + signal.SIGTERM
    assert "fine-tuning: stopped after step 6 of 12; its checkpoint is in" in capsys.readouterr().err
    assert not (stopped / "finetune").exists()

    # Other settings are refused with the keys that differ, and nothing is lost by asking.
    assert run(recipe, *arguments, "--learning_rate", "0.01") == 1
    assert "other settings: learning_rate (0.005 there, 0.01 now)" in capsys.readouterr().err

    with monkeypatch.context() as patched:
        stopping_at(1, patched)
        assert run(recipe, *arguments) == 128 + signal.SIGTERM
    assert "widths: stopped after step 2 of 5" in capsys.readouterr().err
    assert run(recipe, *arguments) == 0
    expected, found = weights(whole), weights(stopped)
    assert expected.keys() == found.keys()
    assert all((expected[key] == found[key]).all() for key in expected)
    assert not any((stopped / "checkpoints").iterdir())


def test_without_resume_a_stage_begins_anew(
    recipe: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patched:
        stopping_at(3, patched)
        assert run(recipe, "--stages", "finetune") == 128 + signal.SIGTERM
    assert run(recipe, "--stages", "finetune", "--no-resume", "--learning_rate", "0.004") == 0


def test_cached_answers_train_the_same_supernet(recipe: Path) -> None:
    stages = ("--stages", "finetune,importance,reorder,train", "--width_epochs", "2", "--batch_size", "1")
    plain, cached = recipe.parent / "plain", recipe.parent / "cached"
    assert run(recipe, *stages, "--output_dir", str(plain)) == 0
    assert run(recipe, *stages, "--output_dir", str(cached), "--cache_teacher", "true") == 0
    # Batches of one row have no padding, where the two differ on purpose.
    expected, found = weights(plain), weights(cached)
    assert max(np.abs(expected[key] - found[key]).max() for key in expected if "k_proj.bias" not in key) < 1e-3


def test_mixed_precision_that_the_device_has_not_is_refused(
    recipe: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(recipe, "--amp", "fp16") == 2
    assert (
        "key 'amp' is 'fp16', which Paddle does not support on cpu; it should be one of off" in capsys.readouterr().err
    )
    assert not (recipe.parent / "out").exists()


@pytest.mark.slow
def test_two_processes_train_what_one_trains(recipe: Path) -> None:
    options = ["--stages", "finetune,importance,reorder,train,evaluate", "--batch_size", "7"]
    one, two = recipe.parent / "one", recipe.parent / "two"
    assert run(recipe, *options, "--output_dir", str(one)) == 0
    launch = ["-m", "paddle.distributed.launch", "--nproc_per_node", "2", "--backend", "gloo"]
    launch += ["--log_dir", str(recipe.parent / "logs"), str(ROOT / "examples" / "bert_glue.py")]
    command = [sys.executable, "-W", "ignore", *launch, str(recipe), *options, "--output_dir", str(two)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONFAULTHANDLER": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    logs = "\n".join(path.read_text()[-3000:] for path in sorted((recipe.parent / "logs").glob("workerlog.*")))
    assert done.returncode == 0, f"{logs}\n{done.stderr[-2000:]}"
    expected, found = weights(one), weights(two)
    assert max(np.abs(expected[key] - found[key]).max() for key in expected if "k_proj.bias" not in key) < 1e-3
    results = [json.loads((folder / "evaluate" / "results.json").read_text(encoding="utf-8")) for folder in (one, two)]
    assert [row["scores"] for row in results[0]] == [row["scores"] for row in results[1]]
