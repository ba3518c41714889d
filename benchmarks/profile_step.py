"""Where the time of a training step goes, by operator, and how far it is from its matrix products alone.

One step of `OFA.train_step` and the optimizer, MiniLM's shape at batch 32 x length 64, three widths, a teacher and one
mapped layer, as Paddle's profiler sees it. The bound: the same matrix products, forward and backward, of every
sub-network and the teacher, timed alone with nothing else around them.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import profiler

from minilm import random_batch
from train_step import TrainStep

# What Paddle's events are called here; the first pattern that matches counts.
KINDS = (
    ("the teacher", r"^onednn_op|^pd_op"),
    ("matrix products, backward", r"^Global_Matmul.*Grad|^Global_.*PyLayer__Affine"),
    ("matrix products, forward", r"^(matmul|addmm) dygraph|^linear"),
    ("dropout", r"^dropout dygraph|^Global_Dropout"),
    ("sums", r"^add dygraph|^Global_AddGrad|^add_n"),
    ("reshaping and transposing", r"^(reshape|transpose) dygraph|^Global_(Reshape|Transpose)"),
    ("layer norm", r"^layer_norm dygraph|^Global_LayerNorm"),
    ("GELU", r"^gelu dygraph|^Global_Gelu"),
    ("softmax and scaling", r"^(softmax|scale) dygraph|^Global_(Softmax|Scale)"),
    ("slices of weights", r"^slice dygraph|^pad dygraph|^Global_.*PyLayer__Range"),
    ("optimizer", r"^adamw"),
)
OPERATORS = ("Operator", "OperatorInner")


def by_kind(events: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Milliseconds of the outermost operators of each kind; the last is whatever they do not cover."""
    step = next(event for event in events if event.get("cat") == "ProfileStep")
    operators = sorted((event for event in events if event.get("cat") in OPERATORS), key=lambda event: event["ts"])
    found: Counter[str] = Counter()
    until = 0.0
    for event in operators:
        if event["ts"] < until:  # inside the one before
            continue
        until = event["ts"] + event["dur"]
        name = re.sub(r"\[.*", "", event["name"])
        found[next((kind for kind, pattern in KINDS if re.search(pattern, name)), "other operators")] += event["dur"]
    found["Python and what has no operator"] = step["dur"] - sum(found.values())
    return {kind: spent / 1000 for kind, spent in found.most_common()}


def profiled(side: TrainStep, rng: np.random.Generator, size: int, length: int) -> dict[str, float]:
    """Milliseconds of one step by kind."""
    batch = random_batch(rng, size, length)[:2]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "trace.json"
        profile = profiler.Profiler(
            targets=[profiler.ProfilerTarget.CPU],
            on_trace_ready=lambda ready: ready.export(str(file), format="json"),  # else it writes into the folder here
        )
        profile.start()
        side.step(*batch)
        profile.stop()
        return by_kind(json.loads(file.read_text(encoding="utf-8"))["traceEvents"])


def products(widths: Sequence[float], size: int, length: int) -> list[tuple[list[int], list[int]]]:
    """The shapes of every forward matrix product of the sub-networks; of the teacher's, with which they begin."""
    hidden, ffn, heads, layers = 384, 1536, 12, 6
    found = []
    for width in widths:
        inner, neurons, kept = int(hidden * width), int(ffn * width), int(heads * width)
        rows = size * length
        block = [([rows, hidden], [hidden, inner])] * 3 + [([rows, inner], [inner, hidden])]
        block += [([rows, hidden], [hidden, neurons]), ([rows, neurons], [neurons, hidden])]
        block += [([size * kept, length, 32], [size * kept, 32, length])]
        block += [([size * kept, length, length], [size * kept, length, 32])]
        found += block * layers
    return found


def bound(widths: Sequence[float], size: int, length: int) -> float:
    """Milliseconds of the matrix products alone: forward and twice as many backward, and the teacher's forward."""
    pairs = {}
    for shapes in products([1.0, *widths], size, length):
        pairs.setdefault(str(shapes), [paddle.randn(shape) for shape in shapes])
    teacher, students = products([1.0], size, length), products(widths, size, length)
    start = time.perf_counter()
    for shapes in teacher:
        paddle.matmul(*pairs[str(shapes)])
    for shapes in students:
        left, right = pairs[str(shapes)]
        out = paddle.matmul(left, right)
        paddle.matmul(out, right, transpose_y=True)
        paddle.matmul(left, out, transpose_x=True)
    return 1000 * (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="steps that are profiled (default 5)")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--widths", type=float, nargs="+", default=[1.0, 0.75, 0.5])
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error("--rounds is at least 1")
    paddle.seed(0)
    rng = np.random.default_rng(0)
    side = TrainStep(options.widths, mapped=True, teacher_engine="auto")
    size, length = options.batch_size, options.length
    for _ in range(2):
        side.step(*random_batch(rng, size, length)[:2])
        bound(options.widths, size, length)
    rounds, shares = [], []
    for _ in range(options.rounds):
        rounds.append(profiled(side, rng, size, length))
        shares.append(bound(options.widths, size, length) / sum(rounds[-1].values()))
    total = statistics.median(sum(one.values()) for one in rounds)
    print("| part of the step | share |\n| --- | ---: |")
    kinds = sorted({kind for one in rounds for kind in one}, key=lambda kind: -rounds[0].get(kind, 0.0))
    spent = {kind: statistics.median(one.get(kind, 0.0) / sum(one.values()) for one in rounds) for kind in kinds}
    for kind, share in spent.items():
        print(f"| {kind} | {share:.1%} |")
    print(f"profile_step: {total:.0f} ms; its matrix products alone take {statistics.median(shares):.1%} of that")
    print(json.dumps({"benchmark": "profile_step", "shares": spent, "products": statistics.median(shares)}))


if __name__ == "__main__":
    main()
