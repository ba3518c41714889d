"""Jobs on what a user's function makes: the page's own CNN from the command line to `predict.py`, and wrong uses."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

from ofa_slim.cli import main
from ofa_slim.export.formats import Opened
from ofa_slim.ofa import OFA

PAGE = Path(__file__).parents[2] / "docs" / "one-call.md"
RUN = ["--output_dir", "runs/cnn", "--budget", "params_ratio=0.5", "--formats", "plain,inference"]

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the module of the page, which is the current one."""
    (text,) = [
        one for one in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S) if "OwnJob" in one
    ]
    (tmp_path / "my_cnn.py").write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path != str(tmp_path)])
    before = set(sys.modules)
    paddle.seed(0)
    yield tmp_path
    for name in set(sys.modules) - before:
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.mark.slow
@pytest.mark.usefixtures("forked_models")
def test_a_cnn_of_a_function_from_compress_to_predict(
    code: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (code / "my_cnn.py").read_text(encoding="utf-8")
    text = text.replace("def build():", "def build():\n    paddle.seed(0)")
    text = text.replace("training, build)", "training, build, finish=ofa_slim.Finish())")
    (code / "my_cnn.py").write_text(text, encoding="utf-8")
    assert main(["compress", "my_cnn:job", *RUN]) == 0
    assert "| smaller | inference |" in capsys.readouterr().out
    found = json.loads(Path("runs/cnn/results.json").read_text())
    assert found["costs"]["params_ratio"] <= 0.5
    assert found["cut_score"] is not None, "it trained alone after the search"
    by_model = {row["model"]: row for row in found["rows"] if row["format"] == "inference"}
    assert by_model["smaller"]["parameters"] == found["costs"]["params"] < by_model["original"]["parameters"]

    steps: list[Any] = []
    monkeypatch.setattr(OFA, "train_step", lambda *given: steps.append(given))
    assert main(["compress", "my_cnn:job", *RUN]) == 0  # goes on: nothing is left to train
    assert main(["pick", "runs/cnn", "--code", "my_cnn:job", "--budget", "params_ratio=0.4"]) == 0
    assert not steps
    assert "params_ratio <= 0.4" in capsys.readouterr().out
    picked = Path("runs/cnn/picks/params_ratio-0.4/inference").absolute()
    inputs = {"input": np.random.default_rng(1).standard_normal((3, 3, 12, 12)).astype("float32")}
    np.savez("in.npz", **inputs)
    command = [sys.executable, "-I", "-W", "ignore", str(picked / "predict.py")]
    subprocess.run([*command, "in.npz", "out.npz"], check=True, capture_output=True)
    np.testing.assert_allclose(np.load("out.npz")["arr_0"], Opened(picked)(inputs)[0], atol=1e-5)
    assert "`input`, for example [16, 3, 12, 12]" in (picked / "README.md").read_text()
    np.savez("wrong.npz", other=inputs["input"])
    for files, message in ((["in.npz"], "takes INPUTS.npz"), (["wrong.npz", "out.npz"], "there is no array 'input'")):
        done = subprocess.run([*command, *files], check=False, capture_output=True, encoding="utf-8")
        assert done.returncode == 1
        assert message in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compress", "my_cn:job"], "'my_cn' cannot be imported: ModuleNotFoundError"),
        (["compress", "my_cnn:jb"], "my_cnn has no function 'jb'; did you mean 'job'?"),
        (["compress", "my_cnn:build"], "my_cnn:build returned a Sequential, not an ofa_slim.OwnJob"),
        (["compress", "my_cnn:breaks"], "my_cnn:breaks failed: ValueError: no images ("),
        (["compress", "my_cnn:job", "--epochs", "3"], "--epochs does not go with my_cnn:job"),
        (["compress", "my_cnn:job", "--dry-run"], "--dry-run does not go with my_cnn:job"),
        (["compress", "my_cnn:job", "--budget", "speed=3"], "'budget'"),
        (["compress", "my_cnn:job", "--budget", "params=3"], "params <= 3"),
        (["pick", "runs", "--code", "my_cnn:job", "--budget", "params=3"], "holds no finished run of my_cnn:job"),
    ],
)
def test_wrong_uses_are_one_line(arguments: list[str], message: str, code: Path, capsys: Capture) -> None:
    with (code / "my_cnn.py").open("a", encoding="utf-8") as file:
        file.write("\n\ndef breaks():\n    raise ValueError('no images')\n")
    (code / "runs").mkdir()
    assert main(arguments) in (1, 2)
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said


def test_a_folder_does_not_say_which_code_to_run(code: Path, capsys: Capture) -> None:
    folder = code / "run"
    folder.mkdir()
    (folder / "results.json").write_text(json.dumps({"code": "os:getcwd", "rows": []}))
    assert main(["pick", str(folder), "--budget", "params=3"]) == 1
    assert "name it with --code" in capsys.readouterr().err
    assert main(["pick", str(folder), "--code", "my_cnn:job", "--budget", "params=3"]) == 1
    assert "was made by 'os:getcwd', not by 'my_cnn:job'" in capsys.readouterr().err
    (folder / "results.json").write_text("[]")
    assert main(["pick", str(folder), "--code", "my_cnn:job", "--budget", "params=3"]) == 1
    assert "does not say which code made the run" in capsys.readouterr().err
    assert os.listdir(folder) == ["results.json"]
