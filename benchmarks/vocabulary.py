"""What a pruned vocabulary saves and costs: MiniLM on SST-2, with several sets of texts and coverages.

The dev file and rows 8,001 to 12,000 (see `sst2`) score; no token of theirs is counted.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from paddle import nn

import sst2
from ofa_slim import prune_vocabulary
from ofa_slim.base.tokens import encode
from ofa_slim.export.formats import write_formats
from ofa_slim.export.vocabulary import vocabulary_coverage
from ofa_slim.job.glue import Rows
from ofa_slim.job.tokenised import tokenise

FORMATS = ("plain", "onnx", "onnx-int8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    sst2.add_options(parser)
    options = parser.parse_args()
    why = sst2.missing(options)
    if why:
        print(f"vocabulary: {why}")
        return
    model, _, _ = sst2.prepare(options)
    _, tokenizer = sst2.load_sequence_classifier(str(options.model), 2)
    train, others, sets = sst2.read_rows(options.data_dir)
    few, many = list(train.first), [*train.first, *others.first]
    found: dict[str, Any] = {"original": measured(model, tokenizer, tokenizer, sets)}
    for name, texts, coverage, ideographs in (
        ("63,349 rows", many, 1.0, True),
        ("63,349 rows, no unseen Chinese characters", many, 1.0, False),
        ("63,349 rows, coverage 0.99", many, 0.99, False),
        ("8,000 rows", few, 1.0, False),
        ("8,000 rows, coverage 0.99", few, 0.99, False),
    ):
        pruned = prune_vocabulary(model, tokenizer, texts, coverage=coverage, ideographs=ideographs)
        found[name] = measured(pruned.model, pruned.tokenizer, tokenizer, sets)
        print(name, json.dumps(found[name]), flush=True)
    options.output_dir.mkdir(parents=True, exist_ok=True)
    (options.output_dir / "vocabulary.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def measured(model: nn.Layer, tokenizer: Any, original: Any, sets: dict[str, Rows]) -> dict[str, Any]:
    """Parameters, bytes of each format, and accuracy and coverage on each set."""
    tokenised = {name: tokenise(tokenizer, rows, sst2.MAX_LENGTH) for name, rows in sets.items()}
    return {
        "tokens": len(tokenizer),
        "parameters": sum(int(np.prod(parameter.shape)) for parameter in model.parameters()),
        "bytes": sizes(model, tokenizer, sets["dev"].first[:64]),
        "accuracy": sst2.scores(model, tokenised),
        "coverage": {name: vars(vocabulary_coverage(original, tokenizer, rows.first)) for name, rows in sets.items()},
    }


def sizes(model: nn.Layer, tokenizer: Any, texts: list[str]) -> dict[str, int]:
    """Bytes of each format, the tokenizer's files included."""
    rows = [encode(tokenizer, text, None, sst2.MAX_LENGTH)["input_ids"] for text in texts]
    ids = np.full((len(rows), max(map(len, rows))), tokenizer.pad_token_id, np.int64)
    for row, tokens in zip(ids, rows, strict=True):
        row[: len(tokens)] = tokens
    with tempfile.TemporaryDirectory() as folder:
        record = write_formats(model, Path(folder) / "out", [{"input_ids": ids}], FORMATS, tokenizer=tokenizer)
    return {name: entry["bytes"] for name, entry in record["formats"].items()}


if __name__ == "__main__":
    main()
