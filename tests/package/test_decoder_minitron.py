"""The decoder example: its cuts, its table and its errors."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import paddle
import pytest

pytest.importorskip("paddlenlp", reason="needs PaddleNLP")

import decoder_minitron
from ofa_slim import load_subnet

TINY = {"LAYERS": 2, "HEADS": 2, "HIDDEN": 16, "NEURONS": 24, "LENGTH": 12, "BATCH": 4, "RANKED_ON": 2, "SCORED_ON": 2}


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in TINY.items():
        monkeypatch.setattr(decoder_minitron, name, value)


def test_each_cut_is_distilled_and_trained_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    steps = ["--steps", "30", "--distill_steps", "20"]
    assert decoder_minitron.main([*steps, "--output_dir", str(tmp_path)]) == 0
    rows = json.loads((tmp_path / "report.json").read_text())
    assert [row["model"] for row in rows] == [
        "original",
        "half the heads and neurons",
        "three quarters of the hidden size",
        "half the layers",
    ]
    whole = rows[0]
    assert whole["trained"] < 256  # of a model that knows nothing
    for row in rows[1:]:
        assert row["parameters"] < whole["parameters"]
        assert row["distilled"] < row["cut"]
        small = load_subnet(tmp_path / row["model"].replace(" ", "-"))
        assert decoder_minitron.parameters(small) == row["parameters"]
        assert decoder_minitron.perplexity(small, decoder_minitron.manual()[1]) == pytest.approx(row["distilled"])
    printed = capsys.readouterr().out.strip()
    assert printed == (tmp_path / "report.md").read_text().strip()
    assert len(printed.splitlines()) == 2 + len(rows)


def test_ranking_changes_nothing_that_the_decoder_computes() -> None:
    paddle.seed(1)
    text, held_out = decoder_minitron.manual()
    assert len(text) + len(held_out) > 100_000
    original = decoder_minitron.decoder()
    original.eval()
    ofa = decoder_minitron.ranked(original, text)
    (batch,) = decoder_minitron.windows(held_out, 1, np.random.default_rng(0))
    found, wanted = (decoder_minitron.logits(model, batch).numpy() for model in (ofa.model, original))
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_weights_that_were_never_trained_have_the_same_shapes() -> None:
    model = decoder_minitron.decoder()
    fresh = decoder_minitron.as_new(model, 3)
    state, other = model.state_dict(), fresh.state_dict()
    assert {key: value.shape for key, value in state.items()} == {key: value.shape for key, value in other.items()}
    assert any((state[key] != other[key]).any() for key in state)


def test_a_number_of_steps_below_1_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        decoder_minitron.main(["--steps", "0", "--output_dir", str(tmp_path)])
    assert "--steps and --distill_steps are at least 1" in capsys.readouterr().err
