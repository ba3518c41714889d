"""Right and wrong uses of `ofa-slim`: the exit status, what is said, and that nothing half-written stays."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml

import ofa_slim
from example_runs import recipe_file
from ofa_slim.base.clock import Rule
from ofa_slim.cli import main
from ofa_slim.job import stages, writing_stages
from ofa_slim.job.recipe import CostKey, Recipe, load_recipe
from ofa_slim.job.run import Run
from ofa_slim.measure import LatencyTable
from ofa_slim.search.cost_kinds import KEYS

pytest.importorskip("onnxruntime")

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, forked_models: None) -> Path:
    """The folder of a recipe that ran to its end; tests leave it as it is."""
    folder = tmp_path_factory.mktemp("cli")
    assert main(["compress", str(recipe_file(folder))]) == 0
    return folder


@pytest.fixture
def searched(done: Path) -> Path:
    return done / "out" / "formats" / "searched"


@pytest.fixture
def other(done: Path, tmp_path: Path) -> Path:
    """A copy of the recipe with an output folder of its own."""
    values = yaml.safe_load((done / "recipe.yaml").read_text())
    values["output_dir"] = str(tmp_path / "out")
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(values))
    return tmp_path / "recipe.yaml"


def contents(out: Path) -> dict[str, bytes]:
    """The files of a run's stages, by their path."""
    files = (path for path in sorted(out.rglob("*")) if path.is_file() and path.name != "run.log")
    return {str(path.relative_to(out)): path.read_bytes() for path in files}


def said(capsys: Capture) -> str:
    error = capsys.readouterr().err
    assert "Traceback" not in error
    return error


class TestRightUses:
    def test_a_recipe_ends_in_a_page_that_stands_alone(self, done: Path) -> None:
        page = (done / "out" / "report.html").read_text()
        assert page.count("data:image/png;base64,") == 3  # front, winner, uniform widths
        assert "://" not in page
        report = json.loads((done / "out" / "report.json").read_text())
        for row in report["formats"]["rows"]:
            assert f"{100 * row['score']:.2f}" in page
        for name in ("plain", "onnx-int8"):
            assert f"formats/searched/{name}" in page
        assert f"{len(report['search']['points'])} sub-networks" in page

    def test_the_recipe_command_prints_a_recipe_with_every_key(self, tmp_path: Path, capsys: Capture) -> None:
        assert main(["recipe", "--task", "cola"]) == 0
        values = yaml.safe_load(capsys.readouterr().out)
        assert list(values) == list(Recipe.model_fields)
        assert Recipe.model_validate(values) == Recipe(task="cola")

    def test_a_dry_run_writes_nothing(self, other: Path, capsys: Capture) -> None:
        assert main(["compress", str(other), "--dry-run"]) == 0
        plan = capsys.readouterr().out
        assert "48 training rows, 12 for the search, 16 dev" in plan
        assert "fine-tuning 12 steps of 8 rows" in plan
        assert [*other.parent.iterdir()] == [other]

    def test_predictions_are_those_of_the_plain_model(self, searched: Path, tmp_path: Path, capsys: Capture) -> None:
        texts = ["good film", "bad plot the", "good"]
        (tmp_path / "texts.txt").write_text("\n".join(texts))
        answers = []
        for source in ([*texts], ["--file", str(tmp_path / "texts.txt")]):
            assert main(["predict", str(searched / "onnx-int8"), *source]) == 0
            answers.append([json.loads(line) for line in capsys.readouterr().out.splitlines()])
        assert answers[0] == answers[1]
        exact = ofa_slim.pipeline(searched / "plain")(texts)
        for one, other in zip(answers[0], exact, strict=True):
            assert one["label"] == other["label"] or other["score"] < 0.55  # 8 bits may turn a tie
            assert one["label"] != other["label"] or one["score"] == pytest.approx(other["score"], abs=0.05)
        (alone,) = ofa_slim.pipeline(searched / "plain")("good film", batch_size=1)
        assert alone["label"] == exact[0]["label"]
        assert alone["score"] == pytest.approx(exact[0]["score"], abs=1e-5)  # the products of one row may round apart

    def test_scores_of_a_written_model_are_the_reports(self, done: Path, searched: Path, capsys: Capture) -> None:
        assert main(["evaluate", str(searched / "plain"), "--data_dir", str(done / "text")]) == 0
        found = json.loads(capsys.readouterr().out)
        rows = json.loads((done / "out" / "formats" / "results.json").read_text())["rows"]
        (expected,) = [row["score"] for row in rows if (row["model"], row["format"]) == ("searched", "plain")]
        assert found == {"dev": {"rows": 16, "accuracy": expected}}

    def test_a_rank_factorises_the_embeddings_of_the_winner_and_is_scored(
        self, done: Path, tmp_path: Path, capsys: Capture
    ) -> None:
        shutil.copytree(done, tmp_path / "copy")
        out = tmp_path / "copy" / "out"
        arguments = [str(tmp_path / "copy" / "recipe.yaml"), "--output_dir", str(out), "--embedding_rank", "3"]
        assert main(["export", *arguments, "--overwrite"]) == 0
        found = json.loads((out / "formats" / "results.json").read_text())
        before = json.loads((done / "out" / "formats" / "results.json").read_text())
        saved = 50 * 16 - 3 * (50 + 16)
        for row, whole in zip(found["rows"], before["rows"], strict=True):
            assert whole["parameters"] - row["parameters"] == (saved if row["model"] == "searched" else 0)
        factorised = found["embeddings"]
        assert "embeddings" not in before
        assert (factorised["rank"], factorised["parameters_after"]) == (3, 3 * (50 + 16))
        # The texts have few words, so the weighted product loses less of them than of all.
        assert factorised["weighted_error"] < factorised["error"]
        capsys.readouterr()
        plain = out / "formats" / "searched" / "plain"
        assert main(["evaluate", str(plain), "--data_dir", str(done / "text")]) == 0
        (row,) = [row for row in found["rows"] if (row["model"], row["format"]) == ("searched", "plain")]
        assert json.loads(capsys.readouterr().out)["dev"]["accuracy"] == row["score"]
        assert ofa_slim.load_subnet(plain).bert.embeddings.word_embeddings.rank == 3
        assert "product of rank 3" in (out / "report.html").read_text()

    def test_repair_refits_output_matrices_where_held_back_rows_say_that_it_helps(
        self, done: Path, tmp_path: Path
    ) -> None:
        shutil.copytree(done, tmp_path / "copy")
        out = tmp_path / "copy" / "out"
        arguments = [str(tmp_path / "copy" / "recipe.yaml"), "--output_dir", str(out), "--repair", "true"]
        assert main(["export", *arguments, "--overwrite"]) == 0
        log = (out / "run.log").read_text()
        assert "rows goes from" in log
        for folder in ("width-0.5-depth-1", "width-1-depth-1"):
            before, after = (
                ofa_slim.load_subnet(base / "formats" / folder / "plain").state_dict() for base in (done / "out", out)
            )
            changed = {name.split(".")[-2] for name in before if not np.array_equal(before[name], after[name])}
            assert changed <= {"out_proj", "linear2"}
            assert bool(changed) <= ("kept" in log)
            assert not changed or folder == "width-0.5-depth-1", "the whole computes the same already"

    def test_the_report_of_a_folder_that_was_moved_is_written_anew(
        self, done: Path, tmp_path: Path, capsys: Capture
    ) -> None:
        out = tmp_path / "moved"
        shutil.copytree(done / "out", out)
        before = json.loads((out / "report.json").read_text())
        for name in ("report.html", "report.md"):
            (out / name).unlink()
        assert main(["report", str(out)]) == 0
        assert capsys.readouterr().out.strip() == str(out / "report.html")
        assert str(out) in (out / "report.html").read_text()
        after = json.loads((out / "report.json").read_text())
        assert after == {**before, "settings": {**before["settings"], "output_dir": str(out)}}
        (out / "report.json").unlink()
        assert main(["report", str(out)]) == 0
        shutil.rmtree(out / "search")
        assert main(["report", str(out)]) == 1
        assert "the output of search is not there" in said(capsys)

    def test_any_sub_network_of_the_search_can_be_written(self, done: Path, tmp_path: Path, capsys: Capture) -> None:
        out = tmp_path / "copy"
        shutil.copytree(done / "out", out)
        points = json.loads((out / "search" / "report.json").read_text())["points"]
        assert main(["pick", str(out), "7", "--formats", "plain"]) == 0
        assert capsys.readouterr().out.startswith("sub-network 7 of the search:")
        model = ofa_slim.load_subnet(out / "picks" / "7" / "plain")
        assert len(model.bert.encoder.layers) == points[7]["config"]["encoder.depth"]
        assert sum(int(np.prod(one.shape)) for one in model.parameters()) == points[7]["costs"]["params"]
        assert main(["pick", str(out), str(len(points))]) == 1
        assert f"the search scored 0 to {len(points) - 1}" in said(capsys)
        assert main(["pick", str(out), "0", "--formats", "onxx"]) == 2
        assert "--formats: 'onxx' is not one of" in said(capsys)
        assert main(["pick", str(out), "0", "--budget", "size_mb=3"]) == 2
        assert main(["pick", str(out)]) == 2
        assert "or a NUMBER" in said(capsys)
        assert main(["pick", str(out), "0", "--finish"]) == 2
        assert "has finish_epochs 0" in said(capsys)

    def test_inspect_counts_the_sub_network(self, done: Path, capsys: Capture) -> None:
        config = done / "out" / "search" / "results.json"
        assert main(["inspect", str(done / "out" / "train"), "--length", "8", "--config", str(config)]) == 0
        text = capsys.readouterr().out
        expected = json.loads(config.read_text())["costs"]["params"]
        assert f"{expected:,.0f}" in text
        assert "elastic" in text

    def test_latencies_are_a_table(self, searched: Path, capsys: Capture) -> None:
        assert main(["bench-latency", str(searched / "onnx-int8"), "--batch", "2", "--length", "4"]) == 0
        title, row = capsys.readouterr().out.splitlines()
        assert title.split() == ["milliseconds", "2x4", "p95"]
        assert 0 < float(row.split()[1]) <= float(row.split()[2])

    def test_budgets_are_the_searchs(self) -> None:
        assert set(CostKey.__args__) == set(KEYS)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"\xff\xfe\x00", "not a YAML text file"),
        (b"task: [", "line 1: not valid YAML"),
        (b"- task", "a recipe is a list of lines 'key: value'"),
        (b"epoch: 3", "no key 'epoch'; did you mean 'epochs'?"),
        (b"epochs: many", "key 'epochs' is 'many'; it should be a valid integer"),
        (b"widths: [1.0, 1.5]", "key 'widths' is [1.0, 1.5]; it should be less than or equal to 1"),
        (b"widths: []", "key 'widths' is []"),
        (b"task: sst2", "key 'task' is 'sst2'; it should be 'movie-polarity'"),
        (b"budget: {latency: 3}", "key 'budget' is {'latency': 3}"),
        (b"budget: {params: -1}", "of 'params' it should be greater than 0"),
        (b"formats: [onxx]", "key 'formats' is ['onxx']; it should be 'plain'"),
        (b"strategy: all", "it should be 'uniform', 'sandwich' or 'sampled'"),
        (b"amp: bf16", "key 'amp' is 'bf16', which Paddle does not support on cpu"),
    ],
)
def test_wrong_recipes(text: bytes, message: str, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "recipe.yaml").write_bytes(text)
    assert main(["compress", str(tmp_path / "recipe.yaml"), "--output_dir", str(tmp_path / "out")]) == 2
    error = said(capsys)
    assert message in error
    assert len(error.splitlines()) <= 2
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compres"], "No such command 'compres'"),
        (["compress", "nowhere.yaml"], "nowhere.yaml: cannot read the recipe (No such file or directory)"),
        (["compress", "{folder}"], "cannot read the recipe (Is a directory)"),
        (["compress", "--epoch", "3"], "No such option"),
        (["compress", "--stages", "finetune,serve"], "no stage 'serve'"),
        (["compress", "--widths", "half"], "key 'widths' is ['half']"),
        (["evaluate", "{folder}"], "Missing option '--data_dir'"),
        (["predict", "{folder}"], "give either texts or --file"),
        (["predict", "{folder}", "a", "--file", "b"], "give either texts or --file"),
        (["recipe", "--task", "sst2"], "'sst2' is not one of"),
        (["bench-latency"], "Missing argument"),
        (["inspect", "{folder}", "--width", "2"], "2.0 is not in the range"),
    ],
)
def test_wrong_command_lines(arguments: list[str], message: str, tmp_path: Path, capsys: Capture) -> None:
    assert main([argument.replace("{folder}", str(tmp_path)) for argument in arguments]) == 2
    error = said(capsys)
    assert message in error
    assert len(error.splitlines()) <= 2
    assert not [*tmp_path.iterdir()]


def a_text_of_another_encoding(recipe: Path) -> list[str]:
    (recipe.parent / "text").mkdir()
    (recipe.parent / "text" / "movieReviewSnippets_GroundTruth.txt").write_bytes("1\t1.5\tgut für".encode("latin-1"))
    return ["--data_dir", str(recipe.parent / "text")]


def a_model_with_damaged_weights(recipe: Path) -> list[str]:
    model = recipe.parent / "model"
    shutil.copytree(yaml.safe_load(recipe.read_text())["model_name_or_path"], model)
    (model / "model.safetensors").write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{}")
    return ["--model_name_or_path", str(model)]


def a_pickle(recipe: Path) -> list[str]:
    model = recipe.parent / "model"
    shutil.copytree(yaml.safe_load(recipe.read_text())["model_name_or_path"], model)
    (model / "model.safetensors").rename(model / "model_state.pdparams")
    return ["--model_name_or_path", str(model)]


def an_output_folder_that_is_a_file(recipe: Path) -> list[str]:
    (recipe.parent / "file").write_text("")
    return ["--output_dir", str(recipe.parent / "file")]


@pytest.mark.parametrize(
    ("prepared", "message", "status"),
    [
        (lambda recipe: ["--data_dir", "nowhere"], "nowhere/movieReviewSnippets_GroundTruth.txt: no such file", 1),
        (lambda recipe: ["--task", "sst-2"], "SST-2: no such folder", 1),
        (a_text_of_another_encoding, "not UTF-8 text", 1),
        (lambda recipe: ["--model_name_or_path", "/nowhere/model"], "/nowhere/model", 1),
        (a_model_with_damaged_weights, "model.safetensors", 1),
        (a_pickle, "allow_pickle", 1),
        (an_output_folder_that_is_a_file, "file: File exists", 1),
        (lambda recipe: ["--output_dir", "/proc/nowhere"], "/proc/nowhere: No such file or directory", 1),
        (lambda recipe: ["--search_rows", "5000"], "search_rows is 5000, but there are 60 training rows", 1),
        (lambda recipe: ["--widths", "1.0,0.3"], "has 0.3, which is 1.2 of the model's 4 attention heads", 2),
        (lambda recipe: ["--embedding_rank", "13"], "saves nothing in a table of 50 x 16; it can be at most 12", 2),
        (lambda recipe: ["--max_length", "64"], "key 'max_length' is 64, but the model has 32 positions", 2),
        (lambda recipe: ["--stages", "search"], "search needs the output of train, but", 1),
    ],
)
def test_jobs_that_cannot_be_done(
    prepared: Callable[[Path], list[str]], message: str, status: int, other: Path, capsys: Capture
) -> None:
    assert main(["compress", str(other), *prepared(other)]) == status
    error = said(capsys)
    assert message in error
    assert not [path for path in other.parent.rglob("*") if path.name in stages.RUNNERS or "partial" in path.name]


class TestRunsThatAreThere:
    """A finished run is not touched by what goes wrong on it."""

    @pytest.fixture(autouse=True)
    def _untouched(self, done: Path) -> Iterator[None]:
        def there() -> dict[str, float]:
            return {
                str(path): path.stat().st_mtime
                for path in (done / "out").rglob("*")
                if path.name not in ("run.log", "report.html", "report.md", "report.json") and path.is_file()
            }

        before = there()
        yield
        assert {path: when for path, when in there().items() if "png" not in path} == {
            path: when for path, when in before.items() if "png" not in path
        }

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["compress", "{done}/recipe.yaml", "--epochs", "3"], "epochs (2 there, 3 now)"),
            (["search", "{done}/recipe.yaml", "--budget", "params=5000"], "budget.params (only now: 5000.0)"),
            (["predict", "{done}/nowhere", "good"], "nowhere: no such directory"),
            (
                ["predict", "{done}/out/formats/searched", "good"],
                "holds the formats inference, onnx-int8, plain: name one",
            ),
            (["predict", "{done}/out/train", "good"], "format.json is not there"),
            (["predict", "{done}/out/formats/searched/plain", "--file", "{done}/nowhere"], "nowhere: no such file"),
            (
                ["evaluate", "{done}/out/formats/searched/plain", "--data_dir", "{done}", "--task", "cola"],
                "is of task movie-polarity with labels ['negative', 'positive']; those of cola are",
            ),
            (["evaluate", "{done}/out/formats/searched/plain", "--data_dir", "{done}"], "no such file"),
            (["inspect", "{done}/nowhere"], "nowhere"),
            (["inspect", "{done}/out/train"], "--length is 64, but the model has 32 positions"),
            (["inspect", "{done}/out/train", "--widths", "1,big"], "--widths is '1,big'"),
            (
                ["inspect", "{done}/out/train", "--length", "8", "--config", "{done}/recipe.yaml"],
                "not a JSON text file",
            ),
            (["bench-latency", "{done}/out/train"], "format.json is not there"),
        ],
    )
    def test_wrong_uses(self, arguments: list[str], message: str, done: Path, capsys: Capture) -> None:
        assert main([argument.replace("{done}", str(done)) for argument in arguments]) == 1
        assert message in said(capsys)

    def test_an_impossible_budget_leaves_what_is_there(
        self, done: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shutil.copytree(done, tmp_path / "copy")
        recipe, out = tmp_path / "copy" / "recipe.yaml", tmp_path / "copy" / "out"
        # The times that an earlier search measured serve again: nothing is measured before the refusal.
        ofa, _ = Run(load_recipe(str(recipe), {"output_dir": str(out)})).supernet()
        shape, dtypes = [1, 16], ["int64", "int64"]
        table = LatencyTable.build(
            ofa,
            input_shapes=[shape, shape],
            input_dtypes=dtypes,
            rule=Rule(warm_up=0, least=1, most=1, runs=1),
            progress=False,
        )
        table.save(out / "search" / "latency.json")
        monkeypatch.setattr(LatencyTable, "build", None)
        before = contents(out)
        for key, most in (("params", "1"), ("latency_ms", "0.0001")):
            arguments = ["--output_dir", str(out), "--budget", f"{key}={most}", "--latency_length", "16"]
            assert main(["search", str(recipe), *arguments, "--overwrite"]) == 1
            assert key in said(capsys)
            assert contents(out) == before

    def test_damaged_models(self, searched: Path, tmp_path: Path, capsys: Capture) -> None:
        for name, file in (("onnx-int8", "model.onnx"), ("plain", "model.safetensors")):
            shutil.copytree(searched / name, tmp_path / name)
            (tmp_path / name / file).write_bytes(b"\x00" * 50)
            assert main(["predict", str(tmp_path / name), "good"]) == 1
            message = said(capsys)
            assert str(tmp_path / name) in message
            assert "not a readable safetensors file" in message or "files cannot be read" in message

    def test_an_interrupted_export_leaves_what_is_there(
        self, done: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shutil.copytree(done, tmp_path / "copy")
        out = tmp_path / "copy" / "out"
        before = contents(out)
        write = writing_stages.write_formats

        def interrupted(model: object, directory: Path, *rest: object, **more: object) -> object:
            if directory.name == "searched":
                raise KeyboardInterrupt
            return write(model, directory, *rest, **more)

        monkeypatch.setattr(writing_stages, "write_formats", interrupted)
        arguments = ["export", str(tmp_path / "copy" / "recipe.yaml"), "--output_dir", str(out), "--overwrite"]
        assert main(arguments) == 130
        assert "the same command goes on" in said(capsys)
        assert contents(out) == before


def test_debug_shows_where(tmp_path: Path, capsys: Capture) -> None:
    assert main(["compress", "nowhere.yaml", "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err
