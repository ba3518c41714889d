"""What the benchmarks share: MiniLM's shape, random batches, and timing in alternation."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import paddle
from paddle import nn

VOCABULARY = 30522
CLASSES = 2


def minilm() -> nn.Layer:
    """A BERT classifier of MiniLM's shape with random weights: time does not depend on their values."""
    from paddlenlp.transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=384,
        num_hidden_layers=6,
        num_attention_heads=12,
        intermediate_size=1536,
        num_labels=CLASSES,
    )
    return BertForSequenceClassification(config)


def random_batch(rng: np.random.Generator, size: int, length: int) -> tuple[paddle.Tensor, ...]:
    """Token ids and token types, int64 [size, length], and labels, int64 [size]."""
    input_ids = paddle.to_tensor(rng.integers(1, VOCABULARY, (size, length)))
    labels = paddle.to_tensor(rng.integers(0, CLASSES, size))
    return input_ids, paddle.zeros_like(input_ids), labels


def alternate(ours: Callable[[], Any], parts: Callable[[], Any], rounds: int) -> dict[str, float]:
    """Times both sides once per round, the order changing from round to round, and prints each round.

    One untimed round goes first. A slow spell of the machine falls on both sides of a round, so the median
    of the rounds' ratios is steadier than the ratio of the medians.

    Returns: the median, smallest and largest ratio and the median seconds of each side.
    """
    seconds: dict[Callable[[], Any], list[float]] = {ours: [], parts: []}
    ours(), parts()
    for number in range(1, rounds + 1):
        for side in (ours, parts) if number % 2 else (parts, ours):
            start = time.perf_counter()
            side()
            seconds[side].append(time.perf_counter() - start)
        a, b = seconds[ours][-1], seconds[parts][-1]
        print(f"round {number}: ours {a:.3f} s, parts {b:.3f} s, ratio {a / b:.3f}", flush=True)
    ratios = [a / b for a, b in zip(seconds[ours], seconds[parts], strict=True)]
    return {
        "median": statistics.median(ratios),
        "min": min(ratios),
        "max": max(ratios),
        "ours_seconds": statistics.median(seconds[ours]),
        "parts_seconds": statistics.median(seconds[parts]),
    }


def report(name: str, result: dict[str, float], **settings: Any) -> None:
    """Prints the result in words, and as one JSON line for programs."""
    print(f"{name}: median ratio {result['median']:.3f} ({result['min']:.3f} to {result['max']:.3f})")
    rounded = {key: round(value, 4) for key, value in result.items()}
    print(json.dumps({"benchmark": name, **settings, **rounded}))
