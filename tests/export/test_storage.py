from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import paddle
import pytest
from safetensors.paddle import load_file, save_file

from models import Tagger, batch, bert, difference, ofa_of
from ofa_slim import SubnetConfig, load_subnet, save_subnet
from ofa_slim.errors import ExportError

UNEQUAL = SubnetConfig({"encoder.0.heads": 1, "encoder.1.heads": 3, "encoder.2.ffn": 5, "encoder.depth": 2})


@pytest.fixture
def plain() -> Any:
    model = ofa_of(bert(layers=3)).export(config=UNEQUAL)
    model.eval()
    return model


def listing(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_layers_of_different_widths_come_back(plain: Any, tmp_path: Path) -> None:
    save_subnet(plain, tmp_path / "out")
    assert listing(tmp_path) == ["out", "out/config.json", "out/model.safetensors", "out/subnet.json"]
    loaded = load_subnet(tmp_path / "out")
    assert type(loaded) is type(plain)
    assert loaded.config.num_hidden_layers == 2
    # Of three layers the second is dropped, and the third is counted anew.
    assert [block.self_attn.num_heads for block in loaded.bert.encoder.layers] == [1, 4]
    assert [block.linear1.weight.shape[1] for block in loaded.bert.encoder.layers] == [24, 5]
    assert [p.shape for p in loaded.parameters()] == [p.shape for p in plain.parameters()]
    assert difference(loaded(*batch()), plain(*batch())) == 0
    assert not loaded.training


def test_what_was_never_cut_is_saved_too(tmp_path: Path) -> None:
    model = bert()
    save_subnet(model, tmp_path / "out")
    assert difference(load_subnet(tmp_path / "out")(*batch()), model(*batch())) == 0


def test_an_earlier_save_is_replaced_and_nothing_else(plain: Any, tmp_path: Path) -> None:
    save_subnet(bert(), tmp_path / "out")
    save_subnet(plain, tmp_path / "out")
    assert difference(load_subnet(tmp_path / "out")(*batch()), plain(*batch())) == 0
    assert listing(tmp_path) == ["out", "out/config.json", "out/model.safetensors", "out/subnet.json"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("all of it")
    with pytest.raises(ExportError, match="is not empty and not an earlier save"):
        save_subnet(plain, tmp_path / "mine")
    with pytest.raises(ExportError, match="is a file"):
        save_subnet(plain, tmp_path / "mine" / "thesis.txt")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "all of it"


def test_files_that_do_not_compute_the_same_are_not_kept(
    plain: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ofa_slim.export.subnet_files

    def wrong(state: dict[str, paddle.Tensor], path: str, **more: Any) -> None:
        save_file({key: value * 1.01 for key, value in state.items()}, path, **more)

    save_subnet(plain, tmp_path / "out")
    before = load_file(str(tmp_path / "out" / "model.safetensors"))
    monkeypatch.setattr(ofa_slim.export.subnet_files, "save_file", wrong)
    with pytest.raises(ExportError, match="save_subnet: outputs differ"):
        save_subnet(plain, tmp_path / "out")
    with pytest.raises(ExportError, match="save_subnet: outputs differ"):
        save_subnet(plain, tmp_path / "new")
    assert listing(tmp_path) == ["out", "out/config.json", "out/model.safetensors", "out/subnet.json"]
    after = load_file(str(tmp_path / "out" / "model.safetensors"))
    assert all(difference(after[key], before[key]) == 0 for key in before)


def test_a_supernet_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"cut one out of the supernet with OFA.export first"):
        save_subnet(ofa_of(bert()).model, tmp_path / "out")
    assert listing(tmp_path) == []


def test_a_hand_written_model_is_rebuilt_in_a_fresh_one(tmp_path: Path) -> None:
    ofa = ofa_of(Tagger(layers=3))
    plain = ofa.export(config=SubnetConfig({"body.0.heads": 2, "body.1.ffn": 7, "body.depth": 2}))
    save_subnet(plain, tmp_path / "out")
    with pytest.raises(ExportError, match="not a PaddleNLP model; give load_subnet"):
        load_subnet(tmp_path / "out")
    loaded = load_subnet(tmp_path / "out", Tagger(layers=3))
    assert difference(loaded(batch()[0]), plain(batch()[0])) < 1e-6


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda out: (out / "subnet.json").unlink(), "subnet.json is not there"),
        (lambda out: (out / "subnet.json").write_text("{"), "not readable as JSON"),
        (lambda out: (out / "subnet.json").write_text('{"format": 9}'), "not of format 1"),
        (lambda out: (out / "config.json").unlink(), "config.json is not there"),
        (lambda out: edit(out, "class", "os.system"), "'os.system' is not a model class of PaddleNLP"),
        (lambda out: edit(out, "class", "BertTokenizer"), "'BertTokenizer' is not a model class"),
        (lambda out: edit(out, "axes", {"encoder.0.hands": 1}), "axis 'encoder.0.hands'"),
        (lambda out: edit(out, "axes", {}), "model.safetensors does not fit the model at"),
    ],
)
def test_damaged_directories_are_named(plain: Any, tmp_path: Path, damage: Any, message: str) -> None:
    save_subnet(plain, tmp_path / "out")
    damage(tmp_path / "out")
    with pytest.raises(ExportError, match=message):
        load_subnet(tmp_path / "out")


def edit(out: Path, key: str, value: Any) -> None:
    about = json.loads((out / "subnet.json").read_text())
    (out / "subnet.json").write_text(json.dumps({**about, key: value}))
