"""Loading sequence classifiers from directories of every layout that BERTs come in."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import paddle
import pytest
from paddle import nn
from safetensors.numpy import save_file

from families import CLASSES, FAMILIES, inputs
from models import batch, bert, difference
from ofa_slim.integrations.paddlenlp import ModelLoadError, load_sequence_classifier

NAMES = {
    "self_attn.q_proj": "attention.self.query",
    "self_attn.k_proj": "attention.self.key",
    "self_attn.v_proj": "attention.self.value",
    "self_attn.out_proj": "attention.output.dense",
    "norm1": "attention.output.LayerNorm",
    "linear1": "intermediate.dense",
    "linear2": "output.dense",
    "norm2": "output.LayerNorm",
}


def hugging_face(model: nn.Layer, prefix: str = "bert.", head: bool = True) -> dict[str, np.ndarray]:
    """The model's weights as Hugging Face names and lays them out."""
    weights = {}
    for key, value in model.state_dict().items():
        array = value.numpy()
        if array.ndim == 2 and "embeddings." not in key:
            array = np.ascontiguousarray(array.T)
        block = re.fullmatch(r"bert\.encoder\.layers\.(\d+)\.(.+)\.(weight|bias)", key)
        if block:
            key = f"bert.encoder.layer.{block[1]}.{NAMES[block[2]]}.{block[3]}"
        key = key.replace("embeddings.layer_norm", "embeddings.LayerNorm")
        if key.startswith("bert."):
            weights[prefix + key.removeprefix("bert.")] = array
        elif head:
            weights[key] = array
    return weights


def write(folder: Path, model: nn.Layer, weights: dict[str, np.ndarray]) -> Path:
    config = model.config
    described = {
        "model_type": "bert",
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "intermediate_size": config.intermediate_size,
        "max_position_embeddings": config.max_position_embeddings,
        "type_vocab_size": config.type_vocab_size,
        "use_cache": True,
    }
    (folder / "config.json").write_text(json.dumps(described), encoding="utf-8")
    (folder / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nfilm\n", encoding="utf-8")
    save_file(weights, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("prefix", ["bert.", ""])
def test_a_hugging_face_directory_computes_what_its_model_does(prefix: str, tmp_path: Path) -> None:
    model = bert(classes=2)
    loaded, tokenizer = load_sequence_classifier(write(tmp_path, model, hugging_face(model, prefix)), 2, need_head=True)
    assert difference(loaded(*batch()), model(*batch())) < 1e-5
    assert not loaded.training
    assert tokenizer("film")["input_ids"] == [2, 5, 3]


def test_sharded_files_are_one_model(tmp_path: Path) -> None:
    model = bert(classes=2)
    weights = hugging_face(model)
    write(tmp_path, model, weights)
    (tmp_path / "model.safetensors").unlink()
    keys = sorted(weights)
    parts = {"part-1.safetensors": keys[::2], "part-2.safetensors": keys[1::2]}
    for name, part in parts.items():
        save_file({key: weights[key] for key in part}, tmp_path / name)
    index = {"weight_map": {key: name for name, part in parts.items() for key in part}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    loaded, _ = load_sequence_classifier(tmp_path, 2, need_head=True)
    assert difference(loaded(*batch()), model(*batch())) < 1e-5


def test_a_missing_or_other_head_starts_at_random_only_where_that_is_wanted(tmp_path: Path) -> None:
    model = bert(classes=2)
    write(tmp_path, model, hugging_face(model, head=False))
    loaded, _ = load_sequence_classifier(tmp_path, 2)
    assert difference(loaded.bert(*batch())[1], model.bert(*batch())[1]) < 1e-5
    with pytest.raises(ModelLoadError, match=r"lack 2 of .* such as 'classifier.weight'"):
        load_sequence_classifier(tmp_path, 2, need_head=True)
    write(tmp_path, model, hugging_face(model))
    assert load_sequence_classifier(tmp_path, 5)[0](*batch()).shape == [3, 5]
    with pytest.raises(ModelLoadError, match=r"'classifier.weight' has shape \[16, 2\]"):
        load_sequence_classifier(tmp_path, 5, need_head=True)


def test_paddlenlp_directories_of_both_kinds(tmp_path: Path) -> None:
    model = bert(classes=2)
    for name, safe in (("safe", True), ("pickled", False)):
        folder = tmp_path / name
        model.save_pretrained(str(folder), safe_serialization=safe)
        (folder / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nfilm\n", encoding="utf-8")
        loaded, _ = load_sequence_classifier(folder, 2, need_head=True, allow_pickle=not safe)
        assert difference(loaded(*batch()), model(*batch())) == 0


def test_half_precision_files_are_read_in_the_models_precision(tmp_path: Path) -> None:
    model = bert(classes=2)
    weights = {key: value.astype(np.float16) for key, value in hugging_face(model).items()}
    loaded, _ = load_sequence_classifier(write(tmp_path, model, weights), 2)
    assert loaded.classifier.weight.dtype == paddle.float32
    assert difference(loaded(*batch()), model(*batch())) < 0.1


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda folder: (folder / "config.json").unlink(), r"expected config.json there, found model.safetensors"),
        (lambda folder: (folder / "config.json").write_text("{"), r"config.json: not valid JSON"),
        (lambda folder: (folder / "model.safetensors").unlink(), r"expected model.safetensors or"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"no tensors"), r"not a readable safetensors file"),
        (lambda folder: (folder / "vocab.txt").unlink(), r"expected the tokenizer's vocab.txt"),
        (lambda folder: save_file({"x": np.zeros(1)}, folder / "model.safetensors"), r"lack .* has names like 'x'"),
    ],
)
def test_what_is_missing_is_named(break_it: object, message: str, tmp_path: Path) -> None:
    model = bert(classes=2)
    write(tmp_path, model, hugging_face(model))
    break_it(tmp_path)  # type: ignore[operator]
    with pytest.raises(ModelLoadError, match=message):
        load_sequence_classifier(tmp_path, 2)


def test_a_path_that_is_not_there_is_not_taken_for_a_hub_name(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="no such directory"):
        load_sequence_classifier(tmp_path / "nowhere", 2)


# What Hugging Face calls the parts of each family, where PaddleNLP has other names.
HUGGING_FACE = {
    "roberta": NAMES,
    "electra": NAMES,
    "ernie": NAMES,
    "distilbert": {
        "self_attn.q_proj": "attention.q_lin",
        "self_attn.k_proj": "attention.k_lin",
        "self_attn.v_proj": "attention.v_lin",
        "self_attn.out_proj": "attention.out_lin",
        "norm1": "sa_layer_norm",
        "linear1": "ffn.lin1",
        "linear2": "ffn.lin2",
        "norm2": "output_layer_norm",
    },
    "mpnet": {
        "attention.layer_norm": "attention.LayerNorm",
        "attention": "attention.attn",
        "ffn_output": "output.dense",
        "ffn": "intermediate.dense",
        "layer_norm": "output.LayerNorm",
    },
    "albert": {},
}
STACKS = {"distilbert": "transformer.layer", "mpnet": "encoder.layer"}


def renamed(name: str, key: str) -> str:
    """Hugging Face's name of a weight of one of the families."""
    block = re.fullmatch(r"(\w+)\.encoder\.layers?\.(\d+)\.(.+)\.(\w+)", key)
    if block:
        inner = block[3]
        for ours, theirs in HUGGING_FACE[name].items():
            if inner == ours or inner.startswith(f"{ours}."):
                inner = theirs + inner.removeprefix(ours)
                break
        return f"{block[1]}.{STACKS.get(name, 'encoder.layer')}.{block[2]}.{inner}.{block[4]}"
    key = key.replace("attention.layer_norm", "attention.LayerNorm")
    key = key.replace("embeddings.layer_norm", "embeddings.LayerNorm")
    return re.sub(r"^transformer\.", "albert.", key) if name == "albert" else key


@pytest.mark.parametrize("layout", ["paddle", "hugging face"])
@pytest.mark.parametrize("name", HUGGING_FACE)
def test_every_family_loads_from_both_layouts(name: str, layout: str, tmp_path: Path) -> None:
    model = FAMILIES[name]()
    model.save_pretrained(str(tmp_path), safe_serialization=True)
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nfilm\n", encoding="utf-8")
    if layout == "hugging face":
        weights = {}
        for key, value in model.state_dict().items():
            array = value.numpy()
            if array.ndim == 2 and "embeddings." not in key and "relative_attention_bias" not in key:
                array = np.ascontiguousarray(array.T)
            if not key.endswith("position_ids"):
                weights[renamed(name, key)] = array
        save_file(weights, tmp_path / "model.safetensors")
    loaded, _ = load_sequence_classifier(tmp_path, CLASSES, need_head=True)
    assert type(loaded) is type(model)
    assert difference(loaded(**inputs(name)), model(**inputs(name))) < 1e-5
