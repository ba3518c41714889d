"""Jobs on files of one's own, from a recipe to a written model that knows the labels' names."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from ofa_slim.cli import main
from own_data import FILLERS, TOPICS, model_folder, recipe_file, topic_rows, write_csv, write_lines
from releases import PADDLENLP_3

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("forked_models")]

Capture = pytest.CaptureFixture[str]


def predictions(folder: Path, texts: list[str], capsys: Capture) -> list[dict[str, Any]]:
    capsys.readouterr()
    assert main(["predict", str(folder), *texts]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def proposed(file: Path, model: Path, *more: str) -> dict[str, Any]:
    """The recipe that `init` writes, without running it: its sizes are for files that are not as small."""
    recipe = file.with_name("init.yaml")
    assert main(["init", str(file), "--model", str(model), "--output", str(recipe), *more]) == 0
    found: dict[str, Any] = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    return found


def picked(out: Path, text: str, capsys: Capture) -> dict[str, Any]:
    """What another choice of a finished run answers, in ONNX; the proof has run its `predict.py` in a process."""
    assert main(["pick", str(out), "--budget", "params_ratio=0.9", "--formats", "onnx"]) == 0
    folder = out / "picks" / "params_ratio-0.9" / "onnx"
    assert (folder / "predict.py").is_file()
    return predictions(folder, [text], capsys)[0]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, forked_models: None) -> Path:
    """The folder of a recipe on a CSV of five labels with an ERNIE, which ran to its end."""
    pytest.importorskip("onnxruntime")
    folder = tmp_path_factory.mktemp("topics")
    file, model = write_csv(folder / "my.csv", topic_rows(), "utf-8-sig"), model_folder(folder / "model")
    found = proposed(file, model)
    assert found["task"] == "classification"
    recipe = recipe_file(folder, model, "classification", {**found["data"], "dev_share": 0.2})
    assert main(["compress", str(recipe)]) == 0
    return folder


def test_five_labels_from_a_csv_with_an_ernie(done: Path, capsys: Capture) -> None:
    report = json.loads((done / "out" / "report.json").read_text())
    assert report["metrics"] == ["accuracy", "macro_f1"]
    for stage in ("finetune", "train", "formats/searched/plain"):
        names = json.loads((done / "out" / stage / "config.json").read_text())["id2label"]
        assert list(names.values()) == list(TOPICS)
    folder = done / "out" / "formats" / "searched"
    answers = [predictions(folder / form, ["my refundword"], capsys) for form in ("plain", "onnx")]
    assert answers[0][0]["label"] == answers[1][0]["label"]
    assert answers[0][0]["label"] in TOPICS


def test_a_finished_run_answers_other_budgets(done: Path, capsys: Capture) -> None:
    out = done / "out"
    points = json.loads((out / "search" / "report.json").read_text())["points"]
    capsys.readouterr()
    assert main(["pick", str(out), "--budget", "params_ratio=0.7", "--budget", "size_mb=1", "--formats", "onnx"]) == 0
    said = capsys.readouterr().out
    for name, fits in (("params_ratio-0.7", lambda c: c["params_ratio"] <= 0.7), ("size_mb-1", lambda c: True)):
        assert str(out / "picks" / name / "onnx") in said
        record = json.loads((out / "picks" / name / "export.json").read_text())
        inside = [point for point in points if fits(point["costs"])]
        (chosen,) = [point for point in inside if point["config"] == record["config"]]
        score = "score" if all(point["final"] for point in inside) else "screened"
        assert chosen[score] == max(point[score] for point in inside)
        assert predictions(out / "picks" / name / "onnx", ["a loginword"], capsys)[0]["label"] in TOPICS
    least = min(point["metrics"]["accuracy"] for point in points)
    wish = ["--at-least", f"accuracy={99 * least}", "--minimise", "params", "--formats", "plain"]
    assert main(["pick", str(out), *wish]) == 0
    smallest = min(point["costs"]["params"] for point in points)
    assert f"params {smallest:,.4g}" in capsys.readouterr().out


@pytest.mark.parametrize("budget", [{"params": 5.0}, {"latency_ratio": 0.001}])
def test_a_budget_out_of_reach_is_refused_before_anything_is_trained(
    budget: dict[str, float], done: Path, tmp_path: Path, capsys: Capture
) -> None:
    data = {"train": str(done / "my.csv"), "text": "body", "label": "topic"}
    recipe = recipe_file(tmp_path, done / "model", "classification", data, budget=budget)
    assert main(["compress", str(recipe)]) == 1
    said = capsys.readouterr().err
    assert f"key 'budget' is {budget}: no sub-network has" in said
    assert "depth_mults" in said
    assert not [path for path in (tmp_path / "out").rglob("*.safetensors")]
    assert not (tmp_path / "out" / "finetune").exists()


@pytest.mark.parametrize(
    ("arguments", "message", "status"),
    [
        ([], "give --budget, --at-least or both", 2),
        (["--budget", "params_ratio"], "--budget: 'params_ratio' is not NAME=NUMBER", 2),
        (["--budget", "params_ratio=-1"], "is not a number above 0", 2),
        (["--budget", "size=3"], "no cost 'size'; did you mean 'size_mb'?", 1),
        (["--budget", "latency_ms=3"], "this search measured no times: search with a budget of latency_ms", 1),
        (["--budget", "params=5"], "no scored sub-network has params <= 5; they have params from ", 1),
        (["--at-least", "acuracy=50"], "no metric 'acuracy'; did you mean 'accuracy'?", 1),
        (["--at-least", "accuracy=99.99"], "no scored sub-network has accuracy >= 99.99; they have accuracy up to", 1),
        (["--budget", "params=9e9", "--formats", "onxx"], "--formats: 'onxx' is not one of plain", 2),
    ],
)
def test_wishes_that_cannot_be_fulfilled(
    arguments: list[str], message: str, status: int, done: Path, capsys: Capture
) -> None:
    assert main(["pick", str(done / "out"), *arguments]) == status
    assert message in capsys.readouterr().err


def test_a_folder_without_a_run_is_named(tmp_path: Path, capsys: Capture) -> None:
    assert main(["pick", str(tmp_path), "--budget", "params=5"]) == 1
    assert f"{tmp_path} holds no finished run" in capsys.readouterr().err


def test_edited_data_is_noticed_and_a_fine_tuned_model_keeps_its_labels(
    done: Path, tmp_path: Path, capsys: Capture
) -> None:
    shutil.copytree(done / "out" / "finetune", tmp_path / "out" / "finetune")
    rows = topic_rows()
    values = yaml.safe_load((done / "recipe.yaml").read_text())
    values["data"]["train"] = str(write_csv(tmp_path / "my.csv", rows, "utf-8-sig"))
    values["output_dir"] = str(tmp_path / "out")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(values))
    write_csv(tmp_path / "my.csv", rows[:-5], "utf-8-sig")
    assert main(["compress", str(recipe)]) == 1
    assert "data_files.train" in capsys.readouterr().err
    values |= {"finetuned_dir": str(tmp_path / "out" / "finetune"), "output_dir": str(tmp_path / "other")}
    recipe.write_text(yaml.safe_dump(values))
    assert main(["compress", str(recipe), "--stages", "finetune"]) == 0
    kept = json.loads((tmp_path / "other" / "finetune" / "config.json").read_text())
    assert list(kept["id2label"].values()) == list(TOPICS)


def test_entities_from_conll_with_an_electra(tmp_path: Path, capsys: Capture) -> None:
    pytest.importorskip("onnxruntime")
    rng = np.random.default_rng(0)
    lines = ["-DOCSTART- O", ""]
    for _ in range(80):
        name, place = rng.choice(["anna", "bert"]), rng.choice(["paris", "rome"])
        words = [(name, "B-PER"), ("the", "O"), (place, "B-LOC"), ("please", "O"), ("today", "O")]
        lines += [f"{word} x {tag}" for word, tag in words[: rng.integers(3, 6)]] + [""]
    (tmp_path / "my.conll").write_text("\n".join(lines), encoding="utf-8")
    model = model_folder(tmp_path / "model", "Electra", ["anna", "bert", "paris", "rome"])
    found = proposed(tmp_path / "my.conll", model)
    assert found["task"] == "tokens"
    recipe = recipe_file(tmp_path, model, "tokens", {**found["data"], "dev_share": 0.2})
    assert main(["compress", str(recipe)]) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["metrics"] == ["f1", "precision", "recall", "accuracy"]
    assert report["original"]["scores"]["dev"]["f1"] > 0.9
    folder = tmp_path / "out" / "formats" / "original"
    for form in ("plain", "onnx"):
        (answer,) = predictions(folder / form, ["bert the rome please"], capsys)
        assert answer["tokens"] == ["bert", "the", "rome", "please"]
        assert answer["tags"] == ["B-PER", "O", "B-LOC", "O"]
    assert len(picked(tmp_path / "out", "bert the rome please", capsys)["tags"]) == 4


def squad(count: int = 160) -> dict[str, Any]:
    """SQuAD's layout: who does what where; every tenth question has no answer, some contexts are long."""
    rng = np.random.default_rng(0)
    paragraphs = []
    for number in range(count):
        name, place = rng.choice(["anna", "bert"]), rng.choice(["paris", "rome"])
        filler = "please today " * (9 if number % 4 == 0 else 1)
        context = f"{name} the {place} {filler}" if rng.random() < 0.5 else f"{filler}{name} the {place}"
        asked, answer = ("who", name) if number % 2 else ("where", place)
        answers = [{"text": answer, "answer_start": context.index(answer)}]
        qas = [{"id": str(number), "question": asked, "answers": answers}]
        if number % 10 == 0:
            qas.append({"id": f"{number}-none", "question": "why", "answers": []})
        paragraphs.append({"context": context, "qas": qas})
    return {"version": "2.0", "data": [{"title": "places", "paragraphs": paragraphs}]}


def test_answers_from_squads_file_with_an_electra(tmp_path: Path, capsys: Capture) -> None:
    pytest.importorskip("onnxruntime")
    file = tmp_path / "squad.json"
    file.write_text(json.dumps(squad(), indent=1), encoding="utf-8")
    words = ["anna", "bert", "paris", "rome", "who", "where", "why"]
    model = model_folder(tmp_path / "model", "Electra", words)
    found = proposed(file, model)
    assert found["task"] == "question_answering"
    recipe = recipe_file(tmp_path, model, "question_answering", {**found["data"], "dev_share": 0.2}, epochs=12)
    assert main(["compress", str(recipe)]) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["metrics"] == ["f1", "exact"]
    assert report["original"]["scores"]["dev"]["f1"] > 0.9
    assert "answer" in picked(tmp_path / "out", "who\tbert the rome", capsys)
    context = "please today " * 9 + "bert the rome"  # longer than a row
    for form in ("plain", "onnx"):
        folder = tmp_path / "out" / "formats" / "original" / form
        who, where, why = predictions(folder, [f"{one}\t{context}" for one in ("who", "where", "why")], capsys)
        assert (who["answer"], where["answer"]) == ("bert", "rome")
        assert context[who["start"] :].startswith("bert")
        assert why["answer"] == ""


def test_chinese_texts_with_several_labels_each(tmp_path: Path, capsys: Capture) -> None:
    pytest.importorskip("onnxruntime")
    signs = {"退款": "退", "物流": "运", "登录": "登"}
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(160):
        labels = [label for label in signs if rng.random() < 0.5]
        text = "".join(rng.permutation([signs[label] for label in labels] + list(rng.choice(list("我的你好"), 4))))
        rows.append({"文本": text, "标签": labels})
    model = model_folder(tmp_path / "model", "Ernie", [*signs.values(), *"我的你好"])
    found = proposed(write_lines(tmp_path / "数据.jsonl", rows), model, "--data", "text=文本,label=标签")
    assert found["task"] == "multi_label"
    recipe = recipe_file(tmp_path, model, "multi_label", {**found["data"], "dev_share": 0.2}, epochs=12)
    assert main(["compress", str(recipe)]) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["metrics"] == ["micro_f1", "macro_f1", "accuracy"]
    assert report["original"]["scores"]["dev"]["micro_f1"] > 0.9
    for form in ("plain", "onnx"):
        (answer,) = predictions(tmp_path / "out" / "formats" / "original" / form, ["我退的登你"], capsys)
        assert set(answer["labels"]) == {"退款", "登录"}
        assert set(answer["scores"]) == set(signs)
    assert set(picked(tmp_path / "out", "我退的", capsys)["scores"]) == set(signs)


def uie_rows(count: int = 160) -> list[dict[str, Any]]:
    """The rows of UIE's tools: a prompt, a text, and the spans that it asks for; some have none, some two."""
    rng = np.random.default_rng(0)
    kinds = {"name": ["anna", "bert"], "city": ["paris", "rome"]}
    rows = []
    for number in range(count):
        words = [
            str(rng.choice([*FILLERS, *kinds["name"], *kinds["city"]])) for _ in range(30 if number % 8 == 0 else 6)
        ]
        content = " ".join(words)
        prompt = ("name", "city")[number % 2]
        starts = [sum(len(word) + 1 for word in words[:place]) for place in range(len(words))]
        found = [
            {"text": word, "start": start, "end": start + len(word)}
            for word, start in zip(words, starts, strict=True)
            if word in kinds[prompt]
        ]
        rows.append({"content": content, "prompt": prompt, "result_list": found})
    return rows


def test_spans_from_uies_rows_with_an_ernie(tmp_path: Path, capsys: Capture) -> None:
    pytest.importorskip("onnxruntime")
    file = write_lines(tmp_path / "uie.jsonl", uie_rows())
    model = model_folder(tmp_path / "model", "Ernie", ["anna", "bert", "paris", "rome", "name", "city"])
    found = proposed(file, model)
    assert found["task"] == "spans"
    recipe = recipe_file(tmp_path, model, "spans", {**found["data"], "dev_share": 0.2}, epochs=12)
    assert main(["compress", str(recipe)]) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["metrics"] == ["f1", "precision", "recall"]
    assert report["original"]["scores"]["dev"]["f1"] > 0.9
    long = [row for row in uie_rows(320)[160:] if len(row["content"].split()) > 16]  # in several parts, unseen
    for form in ("plain", "onnx"):
        folder = tmp_path / "out" / "formats" / "original" / form
        answers = predictions(folder, [f"{row['prompt']}\t{row['content']}" for row in long], capsys)
        wanted = [[(one["text"], one["start"], one["end"]) for one in row["result_list"]] for row in long]
        said = [[(one["text"], one["start"], one["end"]) for one in answer["spans"]] for answer in answers]
        right = sum(len(set(one) & set(other)) for one, other in zip(wanted, said, strict=True))
        assert right > 0.9 * max(sum(map(len, wanted)), sum(map(len, said)))
    assert "spans" in picked(tmp_path / "out", "name\tanna the rome", capsys)


def test_the_next_token_from_a_text_file_with_a_gpt(tmp_path: Path, capsys: Capture) -> None:
    pytest.importorskip("onnxruntime")
    rng = np.random.default_rng(0)
    lines = [f"the {rng.choice(['fine', 'long'])} film and the plot" for _ in range(160)]
    (tmp_path / "my.txt").write_text("\n".join(lines), encoding="utf-8")
    model = model_folder(tmp_path / "model", "GPT")
    found = proposed(tmp_path / "my.txt", model)
    assert found["task"] == "language_modelling"
    assert found["max_length"] <= 16  # of one line, not of all of them
    recipe = recipe_file(tmp_path, model, "language_modelling", {**found["data"], "dev_share": 0.2}, epochs=12)
    assert main(["compress", str(recipe)]) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["metrics"] == ["accuracy", "perplexity"]
    scores = report["original"]["scores"]["dev"]
    assert scores["accuracy"] > 0.8
    assert f"{scores['perplexity']:.2f}" in (tmp_path / "out" / "report.md").read_text()
    for form in ("plain", "onnx"):
        folder = tmp_path / "out" / "formats" / "original" / form
        likely, unlikely, nothing = predictions(folder, ["the fine film and the", "film film film", ""], capsys)
        assert " plot".startswith(likely["next"])
        assert likely["score"] > 0.5
        assert likely["perplexity"] < unlikely["perplexity"]
        assert set(nothing) == {"next", "score", "perplexity"}
    assert "next" in picked(tmp_path / "out", "the fine film", capsys)


# A program of PaddleNLP 3's RoFormer takes texts of one length alone and is refused.
OF_ALL = ["Roberta", "Electra", "DistilBert", "MPNet", "ErnieM", *([] if PADDLENLP_3 else ["RoFormer"]), "Albert"]


@pytest.mark.parametrize("name", OF_ALL)
def test_every_family_goes_through_a_job(name: str, tmp_path: Path) -> None:
    data = {"train": str(write_csv(tmp_path / "my.csv", topic_rows())), "text": "body", "label": "topic"}
    folder = model_folder(tmp_path / "model", name)
    own = {"formats": ["plain"], "epochs": 1, "search_candidates": 4}
    recipe = recipe_file(tmp_path, folder, "classification", data, **own)
    assert main(["compress", str(recipe)]) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    searched = report["formats"]["rows"][-1]
    assert searched["parameters"] <= 0.9 * report["original"]["parameters"]


@pytest.mark.parametrize(
    ("task", "rows", "message"),
    [
        ("spans", uie_rows(40), "a 'bert' model has no head for spans; ernie and ernie_m have UIE's"),
        ("language_modelling", [{"text": "the a please"}] * 40, "PaddleNLP cannot make a 'bert' model for CausalLM"),
    ],
)
def test_a_model_without_the_tasks_head_is_refused(
    task: str, rows: list[dict[str, Any]], message: str, tmp_path: Path, capsys: Capture
) -> None:
    data = {"train": str(write_lines(tmp_path / "my.jsonl", rows))}
    recipe = recipe_file(tmp_path, model_folder(tmp_path / "model", "Bert"), task, data)
    assert main(["compress", str(recipe)]) != 0
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "task", "row", "message"),
    [
        ("Roberta", "tokens", {"tokens": ["the", "a"], "tags": ["O", "B-X"]}, "RobertaForTokenClassification of"),
        ("Llama", "language_modelling", {"text": "the film"}, "LlamaForCausalLM of"),
    ],
)
def test_a_model_that_cannot_be_written_is_refused_before_training(
    name: str, task: str, row: dict[str, Any], message: str, tmp_path: Path, capsys: Capture
) -> None:
    data = {"train": str(write_lines(tmp_path / "my.jsonl", [row] * 40))}
    recipe = recipe_file(tmp_path, model_folder(tmp_path / "model", name), task, data)
    assert main(["compress", str(recipe)]) == 2
    said = capsys.readouterr().err
    assert f"{message} PaddleNLP cannot be converted to a program" in said
    assert " can\n" in said
