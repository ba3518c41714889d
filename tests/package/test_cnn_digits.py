"""The digits example: its protocol on few images, its table and its errors."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest

import cnn_digits
from digits.data import load_digits, shifted
from digits.network import DigitsNet
from digits.report import corners, table
from digits.training import CORNERS, Score, SeedRun, Settings, build_supernet, score_in_supernet, train_supernet
from models import difference

SHORT = ["--images", "96", "--batch_size", "32", "--width", "8", "--teacher_epochs", "1", "--epochs", "4"]


def test_the_corners_are_compared_with_the_same_networks_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cnn_digits.main([*SHORT, "--seeds", "0", "--output_dir", str(tmp_path)]) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    networks = [corner.network(8) for corner in CORNERS]
    counted = [sum(parameter.size for parameter in network.parameters()) for network in networks]
    assert [entry["corner"] for entry in report["corners"]] == [corner.name for corner in CORNERS]
    assert [entry["parameters"] for entry in report["corners"]] == counted
    for score in report["runs"][0]["scores"]:
        assert score["supernet"] == score["exported"]
    printed = capsys.readouterr().out.strip()
    assert len(printed.splitlines()) == 2 + len(CORNERS)
    assert printed in (tmp_path / "report.md").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.json", "report.md"]


def test_an_exported_corner_is_the_supernet_s_and_has_its_architecture() -> None:
    settings = Settings(teacher_epochs=1, epochs=4, batch_size=32, width=8)
    digits = load_digits(64)
    ofa = build_supernet(DigitsNet(8, 2, 5), settings, 64)
    train_supernet(ofa, digits, settings, seed=0)
    images = paddle.to_tensor(digits.test_images[:50])
    for corner in (CORNERS[1], CORNERS[3]):
        _, plain = score_in_supernet(ofa, corner, digits)
        with ofa.subnet(corner.config(ofa.search_space)):
            ofa.recalibrate([paddle.to_tensor(digits.images)])
            ofa.eval()
            inside, _ = ofa(images)
        plain.eval()
        assert difference(plain(images), inside) < 1e-5
        alone = corner.network(8)
        assert {key: value.shape for key, value in plain.state_dict().items()} == {
            key: value.shape for key, value in alone.state_dict().items()
        }


def test_the_table_holds_means_and_differences_over_seeds() -> None:
    runs = [
        SeedRun(seed, [Score("wide, deep", 1234, 98.0, exported, alone)], {})
        for seed, (exported, alone) in enumerate([(97.0, 96.0), (99.0, 96.0)])
    ]
    entry = corners(runs)[0]
    assert (entry["supernet"], entry["alone"], entry["difference"]) == (98.0, 96.0, 2.0)
    assert entry["standard_error"] == pytest.approx(1.0)
    assert table(runs).splitlines()[2] == "| wide, deep | 1,234 | 98.00 | 96.00 | +2.00 ± 1.00 |"
    assert table(runs[:1]).splitlines()[2] == "| wide, deep | 1,234 | 97.00 | 96.00 | +1.00 |"


def test_the_split_is_fixed_and_stratified_and_shifts_lose_at_most_an_edge() -> None:
    digits = load_digits()
    assert len(digits.labels) + len(digits.test_labels) == 1797
    shares = [np.bincount(labels) / len(labels) for labels in (digits.labels, digits.test_labels)]
    assert np.abs(shares[0] - shares[1]).max() < 0.002
    assert np.array_equal(load_digits().test_images, digits.test_images)
    moved = shifted(digits.images[:40], np.random.default_rng(0))
    assert moved.shape == (40, 1, 8, 8)
    for before, after in zip(digits.images[:40, 0, 1:-1, 1:-1], moved[:, 0], strict=True):
        inner = [after[y : y + 6, x : x + 6] for y in range(3) for x in range(3)]
        assert any(np.array_equal(before, part) for part in inner)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--images", "2000"], "--images 2000 is not between 1 and 1198"),
        (["--images", "20"], "--batch_size 32 is more than the 20 training images"),
        (["--epochs", "3"], "--epochs 3 is not at least 4"),
        (["--width", "6"], "--width 6 is not a multiple of 4"),
        (["--learning_rate", "nan"], "--learning_rate nan is not a number above 0"),
        (["--seeds", "1", "1"], r"--seeds [1, 1]: a seed is there twice"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "new"
    assert cnn_digits.main([*arguments, "--output_dir", str(folder)]) == 1
    assert capsys.readouterr().err.startswith(f"error: {message}")
    assert not folder.exists()


def test_a_missing_scikit_learn_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    assert cnn_digits.main([]) == 1
    error = capsys.readouterr().err
    assert "scikit-learn" in error
    assert "[demo]" in error
    assert error.count("\n") == 1
