"""Files of texts with labels, tiny models of several families, and recipes on both, for the tests of own data."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import yaml

from small_tokenizers import byte_pairs

TOPICS = ("billing", "delivery", "login", "refund", "returns")
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
DECODERS = ("GPT", "Llama")  # with a tokenizer of byte pairs
FILLERS = ("the", "a", "please", "my", "order", "today")

SMALL: dict[str, Any] = {
    "max_length": 16,
    "batch_size": 8,
    "epochs": 4,
    "learning_rate": 0.01,
    "importance_rows": 16,
    "widths": [1.0, 0.5],
    "search_candidates": 8,
    "search_survivors": 3,
    "budget": {"params_ratio": 0.9},
    "tolerance": 0.5,
    "formats": ["plain", "onnx"],
    "latency_length": 8,
    "latency_rounds": 3,
}
"""A recipe's settings for a run of seconds."""


def topic_rows(count: int = 80) -> list[dict[str, str]]:
    """Texts that hold the word of their topic."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(count):
        topic = TOPICS[number % len(TOPICS)]
        words = [*rng.choice(FILLERS, 3), f"{topic}word"]
        rows.append({"body": " ".join(rng.permutation(words)), "topic": topic})
    return rows


def write_csv(path: Path, rows: Sequence[dict[str, str]], encoding: str = "utf-8") -> Path:
    with path.open("w", encoding=encoding, newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_lines(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def model_folder(folder: Path, name: str = "Ernie", words: Sequence[str] = (), ending: str = "Model") -> Path:
    """A pre-trained model without a head, with a tokenizer that knows some words."""
    import paddlenlp.transformers as nlp

    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = [*SPECIAL, *FILLERS, *(words or [f"{topic}word" for topic in TOPICS])]
    size = 400 if name in DECODERS else len(vocabulary)
    own = {
        "Electra": {"embedding_size": 8},
        "RoFormer": {"embedding_size": 16},
        "DistilBert": {"dim": 16},
        "Albert": {"embedding_size": 8, "num_hidden_groups": 1, "inner_group_num": 1},
    }.get(name, {})
    model_class = getattr(nlp, name + ending)
    paddle.seed(0)
    config = model_class.config_class(
        vocab_size=size, hidden_size=16, num_hidden_layers=2, num_attention_heads=4, intermediate_size=24,
        max_position_embeddings=40, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, type_vocab_size=2,
        initializer_range=0.3, pad_token_id=0, **own,
    )  # fmt: skip
    model_class(config).save_pretrained(str(folder), safe_serialization=True)
    (folder / "words.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    if name in DECODERS:
        byte_pairs(folder, "GPTTokenizer").save_pretrained(str(folder))
        return folder
    tokenizer = {"Ernie": nlp.ErnieTokenizer, "Electra": nlp.ElectraTokenizer}.get(name, nlp.BertTokenizer)
    tokenizer(str(folder / "words.txt")).save_pretrained(str(folder))
    return folder


def recipe_file(folder: Path, model: Path, task: str, data: dict[str, Any], **own: Any) -> Path:
    """A recipe of `SMALL` settings, whose output is beside it."""
    values = {
        "task": task, "data": data, "model_name_or_path": str(model), "output_dir": str(folder / "out"), **SMALL, **own
    }  # fmt: skip
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(values, allow_unicode=True), encoding="utf-8")
    return path
