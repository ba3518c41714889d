"""The example from a folder of text to the report, with a BERT of a few thousand weights."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from paddle import nn
from safetensors.numpy import load_file

from example_runs import run
from models import batch, difference
from ofa_slim import load_subnet, pipeline
from ofa_slim.cli import main
from ofa_slim.job import finish_stage, training_stages
from ofa_slim.train.builders import Teaching
from teacher_caches import rows_asked

STAGES = ("finetune", "importance", "reorder", "train", "evaluate", "search", "formats")


@pytest.mark.usefixtures("forked_models")
def test_all_stages_leave_their_output_and_are_skipped_the_next_time(
    recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(recipe) == 0
    out = recipe.parent / "out"
    table = capsys.readouterr().out
    assert all((out / stage / "stage.json").is_file() for stage in STAGES)
    assert (out / "accuracy_vs_latency.png").read_bytes().startswith(b"\x89PNG")
    text = (out / "report.md").read_text(encoding="utf-8")
    assert all(line in text for line in table.splitlines() if line.startswith("|"))
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert [(row["width"], row["depth_mult"]) for row in report["subnets"]] == [
        (1.0, 1.0), (0.5, 1.0), (1.0, 0.67), (0.5, 0.67)
    ]  # fmt: skip
    assert [row["layers"] for row in report["subnets"]] == [3, 3, 2, 2]
    for row in report["subnets"]:
        assert row["scores"] == row["scores_in_supernet"]
        exported = load_subnet(out / "formats" / f"width-{row['width']:g}-depth-{row['depth_mult']:g}" / "plain")
        assert row["parameters"] == sum(parameter.size for parameter in exported.parameters())
    (both,) = [row for row in report["formats"]["rows"] if (row["model"], row["format"]) == ("original", "inference")]
    assert both["latency_ms"]["1x8"]["median"] == report["original"]["latency_ms"], "one model has one latency"
    assert any((out / "vdl").iterdir())
    assert "fine-tuned" in (out / "run.log").read_text(encoding="utf-8")

    marks = {stage: (out / stage / "stage.json").stat().st_mtime_ns for stage in STAGES}
    assert run(recipe) == 0
    assert {stage: (out / stage / "stage.json").stat().st_mtime_ns for stage in STAGES} == marks
    assert capsys.readouterr().err.count("skipped, its output is in") == len(STAGES)

    # Other settings do not pass for the ones that made a stage, and nothing is lost by asking.
    assert run(recipe, "--epochs", "3") == 1
    assert "epochs (2 there, 3 now)" in capsys.readouterr().err
    assert run(recipe, "--widths", "1.0", "--stages", "evaluate") == 1
    assert {stage: (out / stage / "stage.json").stat().st_mtime_ns for stage in STAGES} == marks

    # One stage alone, made anew; what was made from the one before stays, but is neither read nor reported.
    assert run(recipe, "--stages", "train", "--overwrite") == 0
    assert {stage: (out / stage / "stage.json").stat().st_mtime_ns for stage in STAGES if stage != "train"} == {
        stage: marks[stage] for stage in STAGES if stage != "train"
    }
    assert "no report: evaluate and search and formats must be made anew" in capsys.readouterr().err
    assert run(recipe, "--stages", "formats") == 1
    assert "was made from another train" in capsys.readouterr().err
    assert run(recipe, "--stages", "evaluate") == 0
    assert (out / "evaluate" / "stage.json").stat().st_mtime_ns != marks["evaluate"]


def test_a_run_from_before_a_key_counts_as_made_with_its_default(
    recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stages = ("--stages", "finetune,importance,reorder,train")
    assert run(recipe, *stages) == 0
    file = recipe.parent / "out" / "train" / "stage.json"
    mark = json.loads(file.read_text(encoding="utf-8"))
    del mark["settings"]["augment_copies"], mark["settings"]["augment_share"]
    file.write_text(json.dumps(mark), encoding="utf-8")
    capsys.readouterr()
    assert run(recipe, *stages) == 0
    assert capsys.readouterr().err.count("skipped, its output is in") == 4
    assert run(recipe, *stages, "--augment_copies", "1") == 1
    assert "augment_copies (0 there, 1 now)" in capsys.readouterr().err


def test_a_stage_alone_says_what_it_needs(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(recipe, "--stages", "formats") == 1
    assert "formats needs the output of finetune" in capsys.readouterr().err
    assert run(recipe, "--stages", "rescore") == 1, "the name that the stage had in part"
    assert "formats needs the output of finetune" in capsys.readouterr().err


def test_a_fine_tuned_model_is_taken_as_it_is(recipe: Path) -> None:
    folder = recipe.parent / "model"
    assert run(recipe, "--finetuned_dir", str(folder), "--stages", "finetune,importance,reorder") == 0
    from ofa_slim.integrations.paddlenlp import load_sequence_classifier

    given, kept, reordered = (
        load_sequence_classifier(path, 2, need_head=True)[0]
        for path in (folder, recipe.parent / "out" / "finetune", recipe.parent / "out" / "reorder")
    )
    inputs = [tensor % 11 for tensor in batch()]
    assert difference(kept(*inputs), given(*inputs)) == 0
    assert difference(reordered(*inputs), given(*inputs)) < 1e-5
    assert difference(reordered.bert.encoder.layers[0].linear1.weight, given.bert.encoder.layers[0].linear1.weight) > 0


def test_a_failing_stage_leaves_no_half_written_folder(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(recipe, "--finetuned_dir", str(recipe.parent / "nowhere"), "--stages", "finetune") == 1
    assert "nowhere: no such directory" in capsys.readouterr().err
    assert [path.name for path in (recipe.parent / "out").iterdir()] == ["run.log"]


@pytest.mark.slow
def test_heads_and_neurons_are_ranked_without_labels_where_asked(recipe: Path) -> None:
    assert run(recipe, "--stages", "finetune,importance,reorder,train,search", "--order", "obs") == 0
    scores = load_file(recipe.parent / "out" / "importance" / "importance.safetensors")
    assert len(scores) == 6
    for one in scores.values():
        assert sorted(one) == list(range(1, len(one) + 1))
    points = json.loads((recipe.parent / "out" / "search" / "report.json").read_text(encoding="utf-8"))["points"]
    assert points[1]["kind"] == "allocated"
    assert points[1]["within"]


@pytest.mark.parametrize(("cached", "copies", "asked"), [("true", 0, 48), ("false", 0, 96), ("false", 2, 288)])
def test_finishing_asks_a_cached_teacher_once_for_each_row(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, cached: str, copies: int, asked: int
) -> None:
    """Of 48 rows in two epochs; copies of them are rows of their own."""
    found = rows_asked(finish_stage, monkeypatch)
    stages = ("--stages", "finetune,importance,reorder,train,search,finish")
    rows = ("--cache_teacher", cached, "--augment_copies", str(copies))
    assert run(recipe, *stages, *rows, "--finish_epochs", "2") == 0
    assert sum(found) == asked


@pytest.mark.parametrize("supernet", ["true", "false"])
@pytest.mark.parametrize("finish", ["true", "false"])
def test_a_recipe_says_what_drops_while_it_trains(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, supernet: str, finish: str
) -> None:
    drops: dict[str, set[bool]] = {}

    def train(*args: Any) -> None:
        *_, options, title = args
        drops.setdefault(title, set()).add(options.dropout)

    monkeypatch.setattr(training_stages, "train_supernet", train)
    monkeypatch.setattr(finish_stage, "train_supernet", train)
    stages = ("--stages", "finetune,importance,reorder,train,search,finish", "--finish_epochs", "1")
    assert run(recipe, *stages, "--supernet_dropout", supernet, "--finish_dropout", finish) == 0
    expected = {"widths": supernet, "widths and depths": supernet, "finishing": finish}
    assert drops == {title: {text == "true"} for title, text in expected.items()}


@pytest.mark.usefixtures("forked_models")
def test_the_searched_sub_network_then_trains_alone_where_asked(
    recipe: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    teachers: list[int] = []

    def teaching(teacher: nn.Layer, **settings: Any) -> Teaching:
        teachers.append(teacher.config.vocab_size)
        return Teaching(teacher, **settings)

    monkeypatch.setattr(finish_stage, "Teaching", teaching)
    arguments = ("--finish_epochs", "2", "--finish_learning_rate", "0.01", "--formats", "plain,inference")
    arguments += ("--vocabulary_coverage", "0.9", "--embedding_rank", "2")
    assert run(recipe, *arguments, "--dry-run") == 0
    assert "steps of the chosen sub-network alone" in capsys.readouterr().out
    assert run(recipe, *arguments, "--embedding_rank", "7") == 2
    assert re.search(
        r"'embedding_rank' is 7, which saves nothing in a table of the \d+ tokens that 'vocabulary_coverage' 0.9",
        capsys.readouterr().err,
    )
    out = recipe.parent / "out"
    assert not (out / "finetune").exists(), "nothing is trained for it"
    assert run(recipe, *arguments) == 0
    found = json.loads((out / "finish" / "results.json").read_text(encoding="utf-8"))
    trained, written = load_subnet(out / "finish" / "model"), load_subnet(out / "formats" / "searched" / "plain")
    for key, value in trained.state_dict().items():
        if "word_embeddings" not in key:
            assert difference(value, written.state_dict()[key]) == 0, key
    kept, rows = found["vocabulary"]["kept"], found["vocabulary"]["rows"]
    assert trained.config.vocab_size == kept < rows
    assert teachers == [kept], "the teacher reads the same ids"
    assert trained.bert.embeddings.word_embeddings.weight.shape[0] == kept
    names = (out / "formats" / "searched" / "plain" / "vocab.txt").read_text(encoding="utf-8").splitlines()
    assert len(names) == kept
    for form in ("plain", "inference"):
        (answer,) = pipeline(out / "formats" / "searched" / form)(["good film"])
        assert answer["label"]
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    (plain,) = [row for row in report["formats"]["rows"] if (row["model"], row["format"]) == ("searched", "plain")]
    assert 0 <= plain["score"] <= 1
    said = capsys.readouterr().out
    assert "then trained alone for 2 epochs" in said
    assert f"Of {rows} tokens the searched model has {kept}" in said
    assert "a product of rank 2" in said
    assert "finish" in report["seconds"]
    assert run(recipe, *arguments) == 0
    assert capsys.readouterr().err.count("skipped, its output is in") == len(STAGES) + 1
    points = json.loads((out / "search" / "report.json").read_text(encoding="utf-8"))["points"]
    own = json.loads((out / "search" / "results.json").read_text(encoding="utf-8"))["config"]
    number = str([point["config"] for point in points].index(own))
    picking = ["pick", str(out), number, "--formats", "plain"]
    assert main([*picking, "--finish"]) == 0
    assert "--finish" not in capsys.readouterr().out
    again = load_subnet(out / "picks" / number / "plain").state_dict()
    for key, value in written.state_dict().items():
        assert difference(value, again[key]) == 0, f"{key} of the run's own choice, trained as the run did"
    assert not any((out / "checkpoints").iterdir())
    assert main(picking) == 0
    assert "--finish trains them alone first" in capsys.readouterr().out
    assert load_subnet(out / "picks" / number / "plain").config.vocab_size == rows
    assert run(recipe, *arguments, "--finish_epochs", "1") == 1
    assert "finish_epochs (2 there, 1 now)" in capsys.readouterr().err


@pytest.mark.usefixtures("forked_models")
def test_a_job_without_training_writes_the_original_and_a_smaller_model(
    recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("--training", "none", "--formats", "plain,inference", "--budget", "flops_ratio=0.6")
    assert run(recipe, *arguments, "--budget", "flops_ratio=0.6,params=10") == 1
    assert "more than the budget of flops_ratio <= 0.6 and params <= 10" in capsys.readouterr().err
    assert run(recipe, *arguments, "--dry-run") == 0
    plan = capsys.readouterr().out
    assert "shrink" in plan
    assert "supernet" not in plan
    assert run(recipe, *arguments) == 0
    out = recipe.parent / "out" / "shrink"
    found = json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert found["chosen"]["costs"]["flops_ratio"] <= 0.6
    original, _, smaller, _ = found["rows"]
    assert (original["model"], smaller["model"]) == ("original", "smaller")
    exported = load_subnet(out / "smaller" / "plain")
    assert smaller["parameters"] == sum(parameter.size for parameter in exported.parameters()) < original["parameters"]
    assert capsys.readouterr().out.strip() == (out / "report.md").read_text(encoding="utf-8").strip()
    assert not (recipe.parent / "out" / "train").exists()
    assert run(recipe, *arguments, "--vocabulary_coverage", "2.0") == 2
    assert "key 'vocabulary_coverage' is 2.0" in capsys.readouterr().err
    fewer = ("--vocabulary_coverage", "1.0", "--output_dir", str(recipe.parent / "fewer"))
    assert run(recipe, *arguments, *fewer) == 0
    results = json.loads((recipe.parent / "fewer" / "shrink" / "results.json").read_text(encoding="utf-8"))
    assert results["vocabulary"]["coverage"] == 1
    assert results["rows"][2]["parameters"] < smaller["parameters"]
    alone = ("--finish_epochs", "2", "--finish_learning_rate", "0.01", "--output_dir", str(recipe.parent / "alone"))
    assert run(recipe, *arguments, *alone) == 0
    results = json.loads((recipe.parent / "alone" / "shrink" / "results.json").read_text(encoding="utf-8"))
    assert results["chosen"]["config"] == found["chosen"]["config"]
    assert "The smaller model then trained alone for 2 epochs" in capsys.readouterr().out
    finished = load_subnet(recipe.parent / "alone" / "shrink" / "smaller" / "plain")
    weight = "bert.encoder.layers.0.linear2.weight"
    assert difference(finished.state_dict()[weight], exported.state_dict()[weight]) > 0
