"""What the importance pass over some batches costs beside as many plain forward and backward passes.

Both sides run the same model, in eval mode, on the same batches; gradients are cleared after each batch.
"""

from __future__ import annotations

import argparse

import numpy as np
import paddle
from paddle import nn

from alternation import alternate, report, timed
from minilm import minilm, random_batch
from ofa_slim.importance import compute_neuron_head_importance


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9, help="rounds that are timed (default 9)")
    parser.add_argument("--batches", type=int, default=4, help="batches per round and side (default 4)")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--length", type=int, default=64)
    options = parser.parse_args()
    if options.rounds < 1 or options.batches < 1:
        parser.error("--rounds and --batches are at least 1")

    paddle.seed(0)
    rng = np.random.default_rng(0)
    model = minilm()
    model.eval()
    loss_fct = nn.CrossEntropyLoss()
    batches = [random_batch(rng, options.batch_size, options.length) for _ in range(options.batches)]

    def scoring() -> None:
        compute_neuron_head_importance("benchmark", model, batches, num_layers=6, num_heads=12, loss_fct=loss_fct)

    def plain() -> None:
        for *inputs, labels in batches:
            loss_fct(model(*inputs), labels).backward()
            model.clear_gradients(set_to_zero=False)

    seconds = alternate({"importance": timed(scoring), "plain passes": timed(plain)}, options.rounds)
    report(
        "importance",
        seconds,
        base="plain passes",
        wanted={("importance", "plain passes"): None},
        rounds=options.rounds,
        batches=options.batches,
        batch_size=options.batch_size,
        length=options.length,
    )


if __name__ == "__main__":
    main()
