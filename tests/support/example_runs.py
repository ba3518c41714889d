"""A folder of text, a BERT of a few thousand weights and a recipe, for the tests that run the example."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import yaml
from paddle import nn

import bert_glue
from models import bert

WORDS = ["good", "bad", "film", "plot", "the", "a"]


def text_files(folder: Path) -> None:
    rng = np.random.default_rng(0)
    lines = []
    for number in range(76):
        word = "good" if number % 2 else "bad"
        rest = " ".join(rng.choice(WORDS[2:], 4)) + f" {number}"
        lines.append(f"{number}\t{1.5 if number % 2 else -1.5}\t{word} {rest}\n")
    (folder / "movieReviewSnippets_GroundTruth.txt").write_text("".join(lines), encoding="utf-8")


def model_files(folder: Path) -> nn.Layer:
    model = bert(layers=3, classes=2)
    model.save_pretrained(str(folder), safe_serialization=True)
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    (folder / "vocab.txt").write_text("\n".join([*special, *WORDS]) + "\n", encoding="utf-8")
    return model


def recipe_file(folder: Path) -> Path:
    """A recipe in a folder, beside its text and model."""
    for name in ("text", "model"):
        (folder / name).mkdir()
    text_files(folder / "text")
    model_files(folder / "model")
    values = {
        "task": "movie-polarity",
        "data_dir": str(folder / "text"),
        "model_name_or_path": str(folder / "model"),
        "output_dir": str(folder / "out"),
        "max_length": 16,
        "batch_size": 8,
        "epochs": 2,
        "learning_rate": 0.005,
        "importance_rows": 16,
        "widths": [1.0, 0.5],
        "depth_mults": [1.0, 0.67],
        "supernet_rows": 16,
        "depth_epochs": 1,
        "search_rows": 12,
        "search_part": 8,
        "search_candidates": 14,
        "search_survivors": 3,
        "budget": {"params_ratio": 0.9},
        "tolerance": 0.5,
        "formats": ["plain", "inference", "onnx-int8"],
        "latency_length": 8,
        "latency_rounds": 3,
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


def run(recipe: Path, *arguments: str) -> int:
    return bert_glue.main([str(recipe), *arguments])
