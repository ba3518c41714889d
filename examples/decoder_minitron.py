"""Prunes a decoder and distils what is left: the recipe of Minitron, on a LLaMA small enough to train here.

    python examples/decoder_minitron.py --output_dir runs/minitron

1. A LLaMA with grouped-query attention learns to predict the next byte of the Python manual's language reference, which
   comes with every Python (`pydoc_data.topics`). Its last tenth is never trained on; perplexity is of it.
2. Heads, neurons and hidden channels are ranked on some batches and reordered.
3. It is cut in three ways: narrower blocks, a smaller hidden size, fewer layers.
4. Each cut model learns the original's probabilities of the next byte for a few steps, without the text's own labels.
   The same architecture is also trained from scratch for as many steps.

Source: Muralidharan et al. 2024, Minitron, arXiv:2407.14679. There activations rank the units and layers are chosen by
their importance; here gradients rank the units and layers are dropped evenly.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import nn
from tqdm import tqdm

from ofa_slim import OFA, Convert, OfaSlimError, RunConfig, SubnetConfig, save_subnet, supernet
from ofa_slim.importance import compute_neuron_head_importance, reorder_neuron_head
from ofa_slim.ordering.hidden import compute_hidden_importance, reorder_hidden

BYTES = 256
LAYERS, HEADS, HIDDEN, NEURONS = 6, 4, 128, 384
LENGTH, BATCH = 128, 16
RANKED_ON, SCORED_ON = 16, 32  # batches

Loss = Callable[[paddle.Tensor, paddle.Tensor], paddle.Tensor]
"""Logits float [rows, length, bytes] and bytes int64 [rows, length + 1] -> scalar."""


def manual() -> tuple[np.ndarray, np.ndarray]:
    """The text as bytes, int64: what is trained on, and the last tenth."""
    from pydoc_data.topics import topics

    text = np.frombuffer("\n".join(topics[name] for name in sorted(topics)).encode(), dtype=np.uint8).astype("int64")
    kept = len(text) * 9 // 10
    return text[:kept], text[kept:]


def windows(text: np.ndarray, count: int, rng: np.random.Generator) -> Iterator[paddle.Tensor]:
    """Batches of places of the text, int64 [rows, length + 1]."""
    for _ in range(count):
        starts = rng.integers(0, len(text) - LENGTH - 1, BATCH)
        yield paddle.to_tensor(np.stack([text[start : start + LENGTH + 1] for start in starts]))


def decoder() -> nn.Layer:
    """A LLaMA over bytes whose heads of keys and values serve two query heads each."""
    from paddlenlp.transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=BYTES,
            hidden_size=HIDDEN,
            intermediate_size=NEURONS,
            num_hidden_layers=LAYERS,
            num_attention_heads=2 * HEADS,
            num_key_value_heads=HEADS,
            max_position_embeddings=LENGTH,
            use_flash_attention=False,
        )
    )


def logits(model: nn.Layer, batch: paddle.Tensor) -> paddle.Tensor:
    """The logits of all bytes but the first, float [rows, length, bytes]."""
    answer = model(batch[:, :-1])
    return answer[0] if isinstance(answer, (tuple, list)) else answer


def next_byte(found: paddle.Tensor, batch: paddle.Tensor) -> paddle.Tensor:
    """The cross entropy of the next byte, in nats."""
    return F.cross_entropy(found.reshape([-1, BYTES]), batch[:, 1:].reshape([-1]))


def train(model: nn.Layer, text: np.ndarray, loss: Loss, steps: int, rate: float, seed: int, title: str) -> None:
    """AdamW with a rate that rises over a tenth of the steps and falls to 0 as a cosine."""
    cosine = paddle.optimizer.lr.CosineAnnealingDecay(rate, max(1, steps))
    schedule = paddle.optimizer.lr.LinearWarmup(cosine, max(1, steps // 10), 0.0, rate)
    clip = nn.ClipGradByGlobalNorm(1.0)
    optimizer = paddle.optimizer.AdamW(schedule, parameters=model.parameters(), weight_decay=0.01, grad_clip=clip)
    model.train()
    batches = windows(text, steps, np.random.default_rng(seed))
    for batch in tqdm(batches, title, steps, mininterval=5, disable=None):
        loss(logits(model, batch), batch).backward()
        optimizer.step()
        optimizer.clear_grad()
        schedule.step()
    model.eval()
    print(
        f"{title}: {steps} steps, perplexity {perplexity(model, manual()[1]):.2f} on the held-out text", file=sys.stderr
    )


@paddle.no_grad()
def perplexity(model: nn.Layer, text: np.ndarray) -> float:
    """Per byte, on the same batches of the text at each call."""
    batches = list(windows(text, SCORED_ON, np.random.default_rng(0)))
    return math.exp(float(np.mean([float(next_byte(logits(model, batch), batch)) for batch in batches])))


def ranked(model: nn.Layer, text: np.ndarray) -> OFA:
    """A supernet of the model, the most important heads, neurons and channels first."""
    network = copy.deepcopy(model)
    batches = [(batch[:, :-1], batch[:, 1:]) for batch in windows(text, RANKED_ON, np.random.default_rng(1))]

    def loss(answer: Any, wanted: paddle.Tensor) -> paddle.Tensor:
        found = answer[0] if isinstance(answer, (tuple, list)) else answer
        return F.cross_entropy(found.reshape([-1, BYTES]), wanted.reshape([-1]))

    heads, neurons = compute_neuron_head_importance("minitron", network, batches, LAYERS, HEADS, loss_fct=loss)
    reorder_neuron_head(network, heads, neurons)
    choices = supernet(expand_ratio=[1.0, 0.5], hidden_size=[HIDDEN, HIDDEN * 3 // 4])
    ofa = OFA(Convert(choices).convert(network), RunConfig(elastic_depth=[LAYERS, LAYERS // 2]))
    reorder_hidden(ofa, compute_hidden_importance(ofa, batches, loss))
    return ofa


def cuts(ofa: OFA) -> dict[str, SubnetConfig]:
    """The ways to cut it."""
    space = ofa.search_space
    half = {axis.name: axis.size // 2 for axis in space.axes if axis.task == "width"}
    (depth,) = [axis.name for axis in space.axes if axis.task == "depth"]
    return {
        "half the heads and neurons": space.complete(half),
        "three quarters of the hidden size": space.complete({"hidden_size": HIDDEN * 3 // 4}),
        "half the layers": space.complete({depth: LAYERS // 2}),
    }


def as_new(model: nn.Layer, seed: int) -> nn.Layer:
    """A model of the same sizes with weights that were never trained."""
    paddle.seed(seed)
    fresh = copy.deepcopy(model)
    for name, parameter in fresh.named_parameters():
        if "norm" in name:
            parameter.set_value(paddle.ones_like(parameter))
        else:
            parameter.set_value(paddle.randn(parameter.shape) * 0.02)
    return fresh


def run(options: argparse.Namespace) -> list[dict[str, Any]]:
    """The table's rows."""
    text, held_out = manual()
    paddle.seed(options.seed)
    original = decoder()
    train(original, text, next_byte, options.steps, 2e-3, options.seed, "original")
    whole = {"model": "original", "parameters": parameters(original), "trained": perplexity(original, held_out)}
    rows: list[dict[str, Any]] = [whole]
    ofa = ranked(original, text)
    for name, config in cuts(ofa).items():
        small = ofa.export(config=config, input_shapes=[paddle.zeros([1, LENGTH], "int64")])
        row = {"model": name, "parameters": parameters(small), "cut": perplexity(small, held_out)}
        alone = as_new(small, options.seed)

        def distance(found: paddle.Tensor, batch: paddle.Tensor) -> paddle.Tensor:
            with paddle.no_grad():
                wanted = F.softmax(logits(original, batch))
            return F.cross_entropy(found, wanted, soft_label=True)

        train(small, text, distance, options.distill_steps, 2e-3, options.seed + 1, f"{name}, distilled")
        row["distilled"] = perplexity(small, held_out)
        train(alone, text, next_byte, options.distill_steps, 2e-3, options.seed + 1, f"{name}, from scratch")
        row["from scratch"] = perplexity(alone, held_out)
        save_subnet(small, options.output_dir / name.replace(" ", "-"))
        rows.append(row)
    return rows


def parameters(model: nn.Layer) -> int:
    return sum(int(parameter.size) for parameter in model.parameters())


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as Markdown."""
    lines = [
        "| model | parameters | perplexity as cut | distilled | from scratch |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        cells = [f"{row[key]:.2f}" if key in row else "" for key in ("cut", "distilled", "from scratch")]
        if "trained" in row:
            cells[0] = f"{row['trained']:.2f} (whole)"
        lines.append(f"| {row['model']} | {row['parameters']:,} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains, cuts and distils; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, default=Path("runs/minitron"), help="default: %(default)s")
    parser.add_argument("--steps", type=int, default=800, help="of the original (default: %(default)s)")
    parser.add_argument("--distill_steps", type=int, default=200, help="of each cut model (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    if min(options.steps, options.distill_steps) < 1:
        parser.error("--steps and --distill_steps are at least 1")
    try:
        rows = run(options)
        options.output_dir.mkdir(parents=True, exist_ok=True)
        (options.output_dir / "report.json").write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
        (options.output_dir / "report.md").write_text(table(rows) + "\n", encoding="utf-8")
    except (OfaSlimError, OSError) as error:
        print(f"decoder_minitron: {error}", file=sys.stderr)
        return 1
    print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
