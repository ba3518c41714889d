"""The example's recipe, batches and training, on data that the tests make."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest

import bert_glue
from models import VOCABULARY, bert
from ofa_slim import OFA, dynabert_config
from ofa_slim.job.glue import TASKS
from ofa_slim.train.batches import Batches, Examples, batch_rows
from ofa_slim.train.builders import Teaching, elastic_blocks
from ofa_slim.train.fitting import evaluate, finetune, train_supernet
from ofa_slim.train.loop import DivergedError, Schedule
from ofa_slim.train.strategies import Uniform

SST2 = TASKS["sst-2"].kind


def examples(rows: int = 70) -> Examples:
    """Rows whose label is whether their first token is in the upper half."""
    rng = np.random.default_rng(0)
    ids = [rng.integers(1, VOCABULARY, int(length)) for length in rng.integers(3, 9, rows)]
    labels = np.array([int(row[0] > VOCABULARY // 2) for row in ids])
    return Examples({"input_ids": ids, "token_type_ids": [np.zeros_like(row) for row in ids]}, labels)


def test_every_row_is_in_one_batch_and_lengths_are_grouped() -> None:
    lengths = np.random.default_rng(0).integers(1, 60, 1000)
    batches = batch_rows(lengths, 16, np.random.default_rng(1))
    assert sorted(np.concatenate(batches).tolist()) == list(range(1000))
    padded = sum(len(rows) * lengths[rows].max() for rows in batches)
    assert padded < 1.15 * lengths.sum()


def test_fine_tuning_and_the_supernet_learn() -> None:
    rows, model = examples(), bert(classes=2)
    before = evaluate(model, Batches(rows, 16), SST2)["accuracy"]
    finetune(model, rows, SST2, Schedule(8, 8, 3e-3), np.random.default_rng(0))
    tuned = evaluate(model, Batches(rows, 16), SST2)["accuracy"]
    assert tuned > max(before, 0.8)
    student = copy.deepcopy(model)
    distill = Teaching(model).config(student)
    ofa = OFA(student, elastic_blocks(student, [1.0, 0.5], [1.0]), distill)
    config = dynabert_config(ofa, 0.5)
    with ofa.subnet(config):
        untrained = evaluate(ofa.model, Batches(rows, 16), SST2)["accuracy"]
    strategy = Uniform(ofa.search_space, [1.0, 0.5])
    train_supernet(ofa, rows, SST2, Schedule(8, 8, 1e-3), np.random.default_rng(0), strategy)
    with ofa.subnet(config):
        trained = evaluate(ofa.model, Batches(rows, 16), SST2)["accuracy"]
    assert trained >= untrained
    assert trained > 0.75


def test_a_loss_that_is_not_a_number_stops_the_training() -> None:
    model = bert(classes=2)
    model.classifier.bias.set_value(model.classifier.bias * float("nan"))
    with pytest.raises(DivergedError, match=r"fine-tuning: the loss became nan at step 1, of the model\. A lower"):
        finetune(model, examples(24), SST2, Schedule(1, 8, 1e-3), np.random.default_rng(0))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--learning_rat", "1"], "learning_rate"),
        (["--epochs", "many"], "epochs"),
        (["nowhere.yaml"], "nowhere.yaml"),
    ],
)
def test_mistakes_in_a_recipe_are_one_or_two_lines(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert bert_glue.main(arguments) != 0
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert list(tmp_path.iterdir()) == []
