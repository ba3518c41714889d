"""Jobs on files of one's own, from a recipe to a written model that knows the labels' names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from ofa_slim.cli import main
from own_data import TOPICS, model_folder, recipe_file, topic_rows, write_csv

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("forked_models")]

Capture = pytest.CaptureFixture[str]


def predictions(folder: Path, texts: list[str], capsys: Capture) -> list[dict[str, Any]]:
    capsys.readouterr()
    assert main(["predict", str(folder), *texts]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_five_labels_from_a_csv_with_an_ernie(tmp_path: Path, capsys: Capture) -> None:
    pytest.importorskip("onnxruntime")
    rows = topic_rows()
    data = {"train": str(write_csv(tmp_path / "my.csv", rows, "utf-8-sig")), "text": "body", "label": "topic"}
    recipe = recipe_file(tmp_path, model_folder(tmp_path / "model"), "classification", {**data, "dev_share": 0.2})
    assert main(["compress", str(recipe)]) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["metrics"] == ["accuracy", "macro_f1"]
    for stage in ("finetune", "train", "formats/searched/plain"):
        names = json.loads((tmp_path / "out" / stage / "config.json").read_text())["id2label"]
        assert list(names.values()) == list(TOPICS)
    answers = [
        predictions(tmp_path / "out/formats/searched" / one, ["my refundword"], capsys) for one in ("plain", "onnx")
    ]
    assert answers[0][0]["label"] == answers[1][0]["label"]
    assert answers[0][0]["label"] in TOPICS

    # Data that was edited is noticed as other settings are, and the fine-tuned model knows its labels.
    write_csv(tmp_path / "my.csv", rows[:-5], "utf-8-sig")
    assert main(["compress", str(recipe)]) == 1
    assert "data_files.train" in capsys.readouterr().err
    values = yaml.safe_load(recipe.read_text())
    values |= {"finetuned_dir": str(tmp_path / "out" / "finetune"), "output_dir": str(tmp_path / "other")}
    recipe.write_text(yaml.safe_dump(values))
    assert main(["compress", str(recipe), "--stages", "finetune"]) == 0
    kept = json.loads((tmp_path / "other" / "finetune" / "config.json").read_text())
    assert list(kept["id2label"].values()) == list(TOPICS)
