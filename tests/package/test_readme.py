"""The code in the README and in the pages of the docs runs as it stands."""

from __future__ import annotations

import re
import subprocess
import sys
from functools import partial, partialmethod
from pathlib import Path
from typing import Any

import pytest
import yaml

import fleet_training
import ofa_slim
from launching import launched
from models import batch, bert, difference, labels
from ofa_slim import load_subnet
from ofa_slim.job import one_call
from trainer_runs import collate, ernie, rows

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def blocks(page: str) -> list[str]:
    """The Python code of a page, block by block."""
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL)


SCRIPT, LOOP, RELATIONS, CONFIGS = blocks("docs/training.md")
PROCESSES, FLEET, WORKER = blocks("docs/several-machines.md")
(TRAINER,) = blocks("docs/trainer.md")
(SEARCH,) = blocks("docs/search.md")
OTHER, ORDER, NARROW = blocks("docs/other-models.md")
FORMATS, _, *SERVED = blocks("docs/formats.md")
ONE_CALL, TRAINING, FINISHING, OWN_CODE = blocks("docs/one-call.md")
WITHOUT_TRAINING, OMITTING = blocks("docs/without-training.md")
STARTED = blocks("docs/getting-started.md")
TUNED, EXPLAINED = blocks("docs/faq.md")
(TEN_LINES,) = blocks("README.md")
BRIDGE = "import ofa_slim.compat.paddleslim"


def test_every_page_is_linked_and_every_link_leads_somewhere() -> None:
    pages = [
        ROOT / "README.md",
        ROOT / "README_cn.md",
        ROOT / "CONTRIBUTING.md",
        ROOT / "benchmarks" / "README.md",
        *DOCS.glob("*.md"),
    ]
    linked = set()
    for page in pages:
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            target = (page.parent / link).resolve()
            assert target.exists(), f"{page.name} links to {link}"
            linked.add(target)
    assert set(DOCS.glob("*.md")) <= linked


@pytest.mark.usefixtures("forked_models")
def test_the_ten_lines_of_the_readme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    loader = [{"input_ids": batch(64, seed=seed)[0], "labels": labels(64)} for seed in range(2)]
    names: dict[str, Any] = {"model": bert(layers=2, heads=4, head_dim=2, ffn=8), "loader": loader}
    names["evaluate"] = lambda model: float(sum(parameter.abs().sum() for parameter in model.parameters()))
    quick = partialmethod(one_call.Training.__init__, epochs=1, candidates=4)
    monkeypatch.setattr(one_call.Training, "__init__", quick)
    exec(TEN_LINES.replace("latency_ratio", "flops_ratio"), names)
    assert names["found"].report.costs["flops_ratio"] <= 0.5
    assert names["small"] is names["found"].model
    assert Path("small/inference").is_dir()
    (tmp_path / "page").mkdir()
    monkeypatch.chdir(tmp_path / "page")
    exec(ONE_CALL, names)
    assert load_subnet("small").bert.encoder.layers[0].linear1.weight.shape[1] < 8
    exec(TRAINING, names)
    assert names["found"].report.costs["flops_ratio"] <= 0.7
    exec(FINISHING.replace('"latency_ratio": 0.33', '"flops_ratio": 0.6'), names)
    assert len(names["found"].report.divergence) == 3, "as cut, repaired, and trained alone"


def test_the_page_on_compression_without_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    loader = [{"input_ids": batch(seed=seed)[0]} for seed in range(8)]
    names = {"model": bert(layers=2, heads=4, head_dim=2, ffn=8), "loader": loader}
    exec(WITHOUT_TRAINING, names)
    assert names["small"].report.costs["flops_ratio"] <= 0.5
    exec(OMITTING, names)
    assert all(0 in axis.choices for axis in names["ofa"].search_space.axes if axis.task == "width")


@pytest.mark.slow
def test_the_page_on_fleet(tmp_path: Path) -> None:
    one, two = launched(partial(fleet_training.page, FLEET), tmp_path)
    assert one.keys() == two.keys()
    assert all((one[name] == two[name]).all() for name in one)


@pytest.mark.usefixtures("forked_models")
def test_the_training_script_and_the_configs_after_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert len([line for line in SCRIPT.splitlines() if line]) <= 30
    loader = [(*batch(seed=seed), labels(seed=seed)) for seed in range(2)]
    names = {"model": bert(layers=4, heads=12, head_dim=2, ffn=1000), "loader": loader}
    exec(SCRIPT, names)
    inputs = batch()
    small = names["small"]
    small.eval()
    assert difference(load_subnet("small")(*inputs), small(*inputs)) == 0
    assert {path.name for path in Path("small-inference").iterdir()} == {"model.json", "model.pdiparams"}
    assert small.bert.encoder.layers[0].linear1.weight.shape[1] == 500
    exec(LOOP, names)
    exec(RELATIONS, names)
    exec(CONFIGS, {**names, "input_ids": inputs[0]})
    exec(SEARCH, names)
    assert names["result"].best.costs["params_ratio"] <= 0.8
    assert Path("search/report.md").is_file()
    pytest.importorskip("onnxruntime")
    exec(FORMATS, names)
    assert names["record"]["formats"]["onnx"]["difference"] < 1e-4
    for code in SERVED:
        exec(code, names)
        assert names["logits"].shape == (32, 3)
    with pytest.raises(SystemExit) as left:  # the script's last line
        exec(PROCESSES, names)
    assert left.value.code == 0
    exec(WORKER, names)
    exec(OTHER, names)
    assert names["small"].fc.weight.shape == [256, 1000]
    exec("labels = paddle.to_tensor([1, 2])", names)
    exec(ORDER, names)
    names["classifier"] = bert(layers=1, heads=12, head_dim=64)
    exec(NARROW, names)
    assert names["small"].classifier.weight.shape == [576, 3]


def test_getting_started_and_the_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for code in (*STARTED, TUNED, EXPLAINED):
        exec(code, names)
    before, after = (load_subnet(name).state_dict() for name in ("small", "small-tuned"))
    assert list(before) == list(after)
    assert any(not (before[name] == after[name]).all() for name in before)


def test_the_trainer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = {"train": rows("token"), "dev": rows("token", 8, seed=1), "pad": collate}
    names: dict[str, Any] = {"model": ernie("token"), **data}
    exec(TRAINER, names)
    assert names["small"].ernie.encoder.layers[0].linear1.weight.shape[1] == 12


@pytest.mark.slow
def test_the_bridge_is_one_import() -> None:
    """In a process of its own, which it changes."""
    code = f"{BRIDGE}\nfrom paddleslim.nas.ofa import OFA\nprint(OFA.__module__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=DOCS.parent)
    assert done.stdout.startswith("ofa_slim."), done.stderr


def test_the_readme_opens_with_the_two_commands() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert re.match(r"# ofa_slim\n\n```bash\nmake demo .*\nmake test .*\n```", readme)
    assert len(readme.splitlines()) <= 160


def parts(page: str) -> dict[str, Any]:
    """What two languages of a page share: levels of headings, code without remarks, figures, links, names in code."""
    text = (ROOT / page).read_text(encoding="utf-8")
    code = re.findall(r"```(\w+)\n(.*?)```", text, flags=re.DOTALL)
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    rows = [line for line in prose.splitlines() if line.startswith("|")]
    return {
        "headings": re.findall(r"^(#+) ", prose, flags=re.MULTILINE),
        "code": [(kind, re.sub(r" *#.*", "", body)) for kind, body in code],
        "rows": [len(row.split("|")) for row in rows],
        "figures": sorted(re.findall(r"\d[\d.,]*\d|\d", prose)),
        "links": re.findall(r"\]\(((?!README)[^)]+)\)", prose),
        "names": sorted(re.findall(r"`[^`]+`", prose)),
        "points": len(re.findall(r"^- ", prose, flags=re.MULTILINE)),
    }


def test_the_chinese_readme_says_what_the_english_one_does() -> None:
    english, chinese = parts("README.md"), parts("README_cn.md")
    for name, expected in english.items():
        assert chinese[name] == expected, name
    titles = re.findall("^## .*", (ROOT / "README_cn.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert all(re.search("[\u4e00-\u9fff]", title) for title in titles)


def test_speed_ups_of_the_readme_are_those_of_its_times() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"([\d.]+) → ([\d.]+) +\| +([\d.]+) \|", text)
    assert len(rows) == 6
    for before, after, ratio in ([float(number) for number in row] for row in rows):
        # All three are rounded to hundredths.
        assert (before - 0.005) / (after + 0.005) - 0.005 <= ratio <= (before + 0.005) / (after - 0.005) + 0.005


def test_the_citation_names_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == ofa_slim.__version__
    assert citation["license"] == "Apache-2.0"


@pytest.mark.slow
def test_the_tutorial_on_families_runs(tmp_path: Path) -> None:
    """In a process of its own: it adds to the tables."""
    code = blocks("docs/a-family-of-your-own.md")
    assert len(code) == 4
    script = tmp_path / "tutorial.py"
    script.write_text("\n".join(code), encoding="utf-8")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False, cwd=DOCS.parent)
    assert done.returncode == 0, done.stderr
    assert "tower.0.heads (width, full size 4): 2, 4" in done.stdout
    assert "tower.depth" in done.stdout
