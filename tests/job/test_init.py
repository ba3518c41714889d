"""Recipes that are proposed for a data file and a model."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from ofa_slim.cli import main
from ofa_slim.job.recipe import load_recipe
from own_data import TOPICS, model_folder, topic_rows, write_csv, write_lines

pytestmark = pytest.mark.slow  # PaddleNLP starts a process when it comes to know its tokenizers

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(model_folder(tmp_path_factory.mktemp("model")))


def test_a_recipe_fits_the_file_and_the_model(model: str, tmp_path: Path, capsys: Capture) -> None:
    file = write_csv(tmp_path / "my.csv", topic_rows(100))
    assert main(["init", str(file), "--model", model]) == 0
    said = capsys.readouterr().out
    assert f"ofa-slim compress {tmp_path / 'my.yaml'}" in said
    text = (tmp_path / "my.yaml").read_text()
    (duration,) = re.findall(r"about \d+ seconds for the stages that train, score and search, and \S+ GiB", said)
    assert duration in text
    assert f"5 labels ({', '.join(TOPICS)})" in text
    recipe = load_recipe(str(tmp_path / "my.yaml"), {})
    assert recipe.task == "classification"
    assert recipe.data is not None
    assert (recipe.data.text, recipe.data.label) == ("body", ["topic"])
    assert recipe.max_length == 8  # four words and two special tokens
    assert recipe.widths == [1.0, 0.75, 0.5, 0.25]
    assert recipe.depth_mults == [1.0, 0.5]  # one of the two layers
    assert (recipe.strategy, recipe.depth_epochs) == ("sandwich", recipe.width_epochs)
    assert recipe.search_rows == 18  # a fifth of the 90 rows that are not split off
    assert main(["compress", str(tmp_path / "my.yaml"), "--dry-run"]) == 0
    assert "72 training rows, 18 for the search, 10 dev" in capsys.readouterr().out
    assert main(["init", str(file), "--model", model]) == 2
    assert "is there already" in capsys.readouterr().err


def test_a_data_file_needs_no_recipe(model: str, tmp_path: Path, capsys: Capture) -> None:
    file = write_csv(tmp_path / "my.csv", topic_rows(100))
    arguments = ["compress", str(file), "--model", model, "--budget", "params_ratio=0.5", "--dry-run"]
    assert main([*arguments, "--output_dir", str(tmp_path / "out")]) == 0
    plan = capsys.readouterr().out
    assert "72 training rows, 18 for the search, 10 dev" in plan
    assert "at most params_ratio 0.5" in plan
    assert main(["compress", str(file)]) == 2
    assert "is a data file; give --model DIR too" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("row", "task", "columns"),
    [
        ({"text": "a b", "label": "x"}, "classification", {"text": "text", "label": "label"}),
        ({"text": "a b", "topics": "x"}, "classification", {"text": "text", "label": "topics"}),
        ({"sentence1": "a b", "sentence2": "c", "label": "x"}, "pairs", {"text": "sentence1", "pair": "sentence2"}),
        ({"text": "a b", "labels": ["x", "y"]}, "multi_label", {"label": "labels"}),
        ({"text": "a b", "score": 0.5}, "regression", {"label": "score"}),
        ({"tokens": ["a", "b"], "tags": ["O", "B-X"]}, "tokens", {}),
    ],
)
def test_columns_and_the_kind_of_task_are_found(
    row: dict[str, Any], task: str, columns: dict[str, str], model: str, tmp_path: Path
) -> None:
    *_, label = row
    other = {**row, label: 0.75 if row[label] == 0.5 else "y" if row[label] == "x" else row[label][::-1]}
    file = write_lines(tmp_path / "my.jsonl", [row, other] * 30)
    assert main(["init", str(file), "--model", model]) == 0
    values = yaml.safe_load((tmp_path / "my.yaml").read_text())
    assert values["task"] == task
    assert columns.items() <= values["data"].items()


def test_columns_that_do_not_say_what_they_hold_are_asked_for(model: str, tmp_path: Path, capsys: Capture) -> None:
    rows = [{"a": "x y", "b": "z", "c": "other"}, {"a": "x y", "b": "w", "c": "other"}] * 30
    file = write_csv(tmp_path / "my.csv", rows)
    assert main(["init", str(file), "--model", model]) == 1
    assert "which of the columns 'a', 'b', 'c' holds the text? Say --data text=COLUMN" in capsys.readouterr().err
    assert main(["init", str(file), "--model", model, "--data", "text=a,label=b"]) == 0


def test_few_rows_are_too_few(model: str, tmp_path: Path, capsys: Capture) -> None:
    assert main(["init", str(write_csv(tmp_path / "my.csv", topic_rows(30))), "--model", model]) == 1
    assert (
        "my.csv: 30 rows; the search needs at least 8 of its own, a fifth of the training rows"
        in capsys.readouterr().err
    )


def test_compress_alone_prints_its_help(capsys: Capture) -> None:
    assert main(["compress"]) == 0
    assert "Usage: ofa-slim compress" in capsys.readouterr().out
