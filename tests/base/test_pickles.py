"""A pickle that would run code does not run it."""

from __future__ import annotations

import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
from safetensors.paddle import save_file

from models import bert
from ofa_slim import DistillConfig
from ofa_slim.base.pickles import holds_pickle, refusal
from ofa_slim.errors import ConfigError
from ofa_slim.integrations.paddlenlp import ModelLoadError, load_sequence_classifier
from ofa_slim.train.distill_config import load_teacher


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, ran: Path) -> None:
        self.ran = ran

    def __reduce__(self) -> Any:
        return Path.touch, (self.ran,)


def write(file: Path, ran: Path) -> None:
    content = pickle.dumps(Payload(ran), protocol=4)
    if file.suffix in (".pt", ".zip"):
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("archive/data.pkl", content)
    else:
        file.write_bytes(content)


NAMES = (
    "model_state.pdparams",
    "model.pdopt",
    "pytorch_model.bin",
    "model.pt",
    "model.pth",
    "model.pkl",
    "model.zip",
    "model",
)


@pytest.mark.parametrize("name", NAMES)
def test_a_teachers_pickle_is_refused_before_it_runs(name: str, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    write(tmp_path / name, ran)
    with pytest.raises(
        ConfigError, match=rf"{name} is a pickle, and reading a pickle runs the code inside it.*safeten"
    ):
        DistillConfig(teacher_model=bert(), teacher_model_path=tmp_path / name)
    assert not ran.exists()


def test_the_payload_would_run_where_it_is_allowed(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    write(tmp_path / "model_state.pdparams", ran)
    config = DistillConfig(
        teacher_model=bert(), teacher_model_path=tmp_path / "model_state.pdparams", allow_pickle=True
    )
    with pytest.raises(TypeError):
        load_teacher(config)
    assert ran.exists()


def model_folder(folder: Path) -> Path:
    bert(classes=2).save_pretrained(str(folder), safe_serialization=True)
    (folder / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nfilm\n", encoding="utf-8")
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_a_directorys_pickle_is_refused_before_it_runs(name: str, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    folder = model_folder(tmp_path / "model")
    write(folder / name, ran)
    load_sequence_classifier(folder, 2)  # beside safetensors it is not looked at
    assert not ran.exists()
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelLoadError, match=rf"{name} is a pickle, .* pass allow_pickle=True"):
        load_sequence_classifier(folder, 2)
    with pytest.raises(ModelLoadError, match=r"is a file; give the directory"):
        load_sequence_classifier(folder / name, 2)
    assert not ran.exists()


def test_a_pickle_under_the_name_of_safetensors_does_not_run(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    folder = model_folder(tmp_path / "model")
    write(folder / "model.safetensors", ran)
    with pytest.raises(ModelLoadError, match="not a readable safetensors file"):
        load_sequence_classifier(folder, 2, allow_pickle=True)
    (folder / "model.safetensors").rename(folder / "shard.bin")
    index = {"weight_map": {"x": "shard.bin"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    with pytest.raises(ModelLoadError, match=r"shard.bin: not a readable safetensors file"):
        load_sequence_classifier(folder, 2, allow_pickle=True)
    (folder / "shard.bin").rename(folder / "teacher.safetensors")
    config = DistillConfig(teacher_model=bert(), teacher_model_path=folder / "teacher.safetensors")
    with pytest.raises(ConfigError, match=r"teacher.safetensors: not a readable safetensors file"):
        load_teacher(config)
    assert not ran.exists()


def test_a_name_of_the_hub_needs_consent_before_anything_is_fetched() -> None:
    with pytest.raises(ModelLoadError, match=r"no such directory, and what PaddleNLP's hub would send .* is a pickle"):
        load_sequence_classifier("bert-base-uncased", 2)


def test_a_file_that_is_not_a_pickle_is_not_taken_for_one(tmp_path: Path) -> None:
    save_file(bert().state_dict(), str(tmp_path / "model.safetensors"))
    (tmp_path / "vocab.txt").write_text("film\n", encoding="utf-8")
    (tmp_path / "empty").write_bytes(b"")
    with zipfile.ZipFile(tmp_path / "texts.zip", "w") as archive:
        archive.writestr("a.txt", "text")
    assert [file.name for file in tmp_path.iterdir() if holds_pickle(file)] == []


def test_the_advice_fits_the_file() -> None:
    assert "s.save_file(paddle.load('a.pdparams'), 'model.safetensors')" in refusal("x/a.pdparams")
    assert "torch.load('a.bin', weights_only=True)" in refusal("x/a.bin")
