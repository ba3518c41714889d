"""What factorised word embeddings lose, without any training after it.

A MiniLM that was fine-tuned on SST-2 (the checkpoint of `optimisers.py`), its word table replaced by products of
several ranks: with every token counted alike, by how often tokens stand in the training rows, and by that plus 1.
Errors and cosines are those of the table, and those of the movie-review snippets, each token as often as it is there.
"""

from __future__ import annotations

import argparse
import copy
import json
from pathlib import Path

import numpy as np
from paddle import nn

from sst2 import ROOT, add_options, missing, prepare, scores  # isort: skip
from ofa_slim import factorise_embeddings
from ofa_slim.export.factorise import largest_rank
from ofa_slim.integrations.paddlenlp import load_sequence_classifier
from ofa_slim.job.glue import TASKS
from ofa_slim.job.tokenised import token_counts, tokenise

TITLES = (
    "rank", "tokens count", "parameters", "error", "cosine", "error in reviews", "cosine in reviews", "dev", "held out",
)  # fmt: skip


def table_of(model: nn.Layer) -> np.ndarray:
    """What the model knows of each token, float64 [tokens, width]."""
    return np.asarray(model.bert.embeddings.word_embeddings.weight.astype("float64"))


def in_text(before: np.ndarray, after: np.ndarray, counts: np.ndarray) -> tuple[float, float]:
    """Relative error and mean cosine of some tokens of a text, each as often as it stands there."""
    lost, whole = np.square(before - after).sum(axis=1), np.square(before).sum(axis=1)
    norms = np.sqrt(whole) * np.linalg.norm(after, axis=1)
    cosines = np.divide((before * after).sum(axis=1), norms, out=np.zeros_like(norms), where=norms > 0)
    return float(np.sqrt(counts @ lost / (counts @ whole))), float(counts @ cosines / counts.sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    add_options(parser)
    parser.set_defaults(output_dir=ROOT / "runs/optimisers")
    parser.add_argument("--train_rows", type=int, default=3000, help="that the model was or will be fine-tuned on")
    parser.add_argument("--ranks", type=int, nargs="+", default=[64, 128, 256])
    parser.add_argument("--rows", type=int, default=2000, help="of those that nothing trained on, to score on")
    parser.add_argument("--reviews", type=Path, default=ROOT / "data/movie-polarity")
    options = parser.parse_args()
    if reason := missing(options):
        print(f"embeddings: {reason}")
        return
    options.output_dir /= f"{options.train_rows}-rows"
    model, train, sets = prepare(options, options.train_rows)
    sets["held-out"] = sets["held-out"].take(np.arange(options.rows))
    before = table_of(model)
    _, tokenizer = load_sequence_classifier(str(options.model), 2)
    reviews, _ = TASKS["movie-polarity"].read(options.reviews)
    used = token_counts(tokenise(tokenizer, reviews, 64), len(before))
    counts = token_counts(train, len(before))
    print(f"embeddings: {(counts > 0).sum()} of {len(before)} tokens in the training rows; at most rank", end=" ")
    print(f"{largest_rank(*before.shape)} saves parameters", flush=True)
    print("| " + " | ".join(TITLES) + " |\n| ---: | --- |" + " ---: |" * (len(TITLES) - 2))
    whole = scores(model, sets)
    size = sum(int(parameter.size) for parameter in model.parameters())
    print(f"| whole | | {size / 1e6:.2f} M | | | | | {whole['dev']:.2f} | {whole['held-out']:.2f} |", flush=True)
    found = []
    for rank in options.ranks:
        for name, frequencies in (("alike", None), ("by use", counts), ("by use, plus 1", counts + 1)):
            small = copy.deepcopy(model)
            (made,) = factorise_embeddings(small, rank, frequencies=frequencies)
            error, cosine = in_text(before, table_of(small), used)
            accuracy = scores(small, sets)
            size = sum(int(parameter.size) for parameter in small.parameters())
            print(
                f"| {rank} | {name} | {size / 1e6:.2f} M | {made.error:.3f} | {made.cosine:.3f} | {error:.3f} | "
                f"{cosine:.3f} | {accuracy['dev']:.2f} | {accuracy['held-out']:.2f} |",
                flush=True,
            )
            found.append({**made.to_dict(), "counted": name, "in_reviews": [error, cosine], "accuracy": accuracy})
    print(json.dumps({"benchmark": "embeddings", "whole": whole, "rows": found}))


if __name__ == "__main__":
    main()
