from __future__ import annotations

from pathlib import Path

import numpy as np
import paddle
import pytest
from paddle.static import InputSpec

from models import Tagger, batch, bert, ofa_of
from ofa_slim import dynabert_config, to_static
from ofa_slim.base.predictor import Predictor
from ofa_slim.errors import ExportError


def test_inference_files_compute_what_the_supernet_does_at_any_batch_and_length(tmp_path: Path) -> None:
    ofa = ofa_of(bert(layers=3))
    config = dynabert_config(ofa, 0.5, 2 / 3)
    to_static(ofa.export(config=config), tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["model.json", "model.pdiparams"]
    loaded = Predictor(tmp_path / "out")
    assert loaded.names == ["input_ids", "token_type_ids"]
    for rows, length in ((1, 4), (3, 7), (5, 30)):
        ids, types = batch(rows, length)
        with ofa.subnet(config):
            expected = ofa(ids, types).numpy()
        found = loaded({"input_ids": ids.numpy(), "token_type_ids": types.numpy()})[0]
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_inputs_are_taken_in_the_type_of_their_spec(tmp_path: Path) -> None:
    names = ("input_ids", "token_type_ids")
    ids = dict(zip(names, batch(2, 5), strict=True))
    to_static(bert(layers=1), tmp_path / "out", inputs={name: value.astype("int32") for name, value in ids.items()})
    assert (tmp_path / "out" / "model.json").is_file()
    with pytest.raises(ExportError, match="'token_type_ids' is float32, and the model takes int64"):
        to_static(bert(layers=1), tmp_path / "no", inputs={**ids, "token_type_ids": ids["input_ids"].astype("float32")})
    assert not (tmp_path / "no").exists()


def test_the_model_stays_as_it_is(tmp_path: Path) -> None:
    model = bert()
    model.train()
    forward = type(model).forward
    to_static(model, tmp_path / "out")
    assert model.training
    assert not any("forward" in vars(layer) for layer in model.sublayers(include_self=True))
    assert type(model).forward is forward


def test_a_spec_of_the_callers_own(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"inputs of Tagger cannot be told .* give input_spec"):
        to_static(Tagger(), tmp_path / "out")
    with pytest.raises(ExportError, match="every input needs a name"):
        to_static(Tagger(), tmp_path / "out", [InputSpec([None, None], "int64")])
    to_static(Tagger(), tmp_path / "out", [InputSpec([None, None], "int64", name="ids")])
    assert Predictor(tmp_path / "out").names == ["ids"]


def test_a_supernet_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="cut one out of the supernet"):
        to_static(ofa_of(bert()).model, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_files_that_do_not_compute_the_same_are_not_kept(tmp_path: Path) -> None:
    model = Tagger()
    # Differs between the static program, which is traced once, and the model.
    state = {"calls": 0}

    def drift(layer: paddle.nn.Layer, given: object, output: paddle.Tensor) -> paddle.Tensor:
        state["calls"] += 1
        return output + state["calls"]

    model.head.register_forward_post_hook(drift)
    with pytest.raises(ExportError, match="to_static: outputs differ"):
        to_static(model, tmp_path / "out", [InputSpec([None, None], "int64", name="ids")])
    assert list(tmp_path.iterdir()) == []


def test_a_program_that_paddle_cannot_run_is_named_and_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(predictor: Predictor) -> None:
        raise RuntimeError("std::exception")

    monkeypatch.setattr(Predictor, "run", fail)
    with pytest.raises(ExportError, match=r"cannot run the program on \{'ids': \[\d+, \d+\]\} \(std::exception\)"):
        to_static(Tagger(), tmp_path / "out", [InputSpec([None, None], "int64", name="ids")])
    assert list(tmp_path.iterdir()) == []
