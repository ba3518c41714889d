"""What converting a large model costs: seconds, and whether its weights are held twice.

A ResNet-50 and an encoder of BERT-large's shape are converted. Memory is the process's at its peak, building the model
included, less what the process held when the conversion began: an upper bound of what the conversion takes. How long
the search space takes to find is given beside it. The run fails where a conversion takes 5 seconds or more, or as
much memory as half of the weights.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

import paddle
from paddle import nn
from paddle.vision.models import resnet50

from ofa_slim import OFA, Convert, supernet

MOST_SECONDS, MOST_OF_WEIGHTS = 5.0, 0.5


def bert_large() -> nn.Layer:
    """24 blocks of 1,024 channels, 16 heads and 4,096 neurons, with the embedding table of BERT."""
    block = nn.TransformerEncoderLayer(1024, 16, 4096, activation="gelu")
    return nn.Sequential(nn.Embedding(30522, 1024), nn.TransformerEncoder(block, 24))


def held_mib() -> float:
    """What the process holds in memory now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def peak_mib() -> float:
    """The most that the process has held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(name: str, build: Callable[[], nn.Layer], example: paddle.Tensor | None = None) -> bool:
    """Prints what one conversion took; returns whether that is within the bounds."""
    model = build()
    weights = sum(parameter.size for parameter in model.parameters()) * 4 / 2**20
    before, start = held_mib(), time.perf_counter()
    Convert(supernet(expand_ratio=[0.25, 0.5, 1.0])).convert(model)
    seconds = time.perf_counter() - start
    more = max(0.0, peak_mib() - before)  # the two are counted at different times
    OFA(model, example_inputs=example)
    searched = time.perf_counter() - start - seconds
    print(
        f"{name}: {weights:.0f} MiB of weights, {seconds:.2f} s, at most {more:.0f} MiB more; "
        f"search space found in {searched:.2f} s"
    )
    return seconds < MOST_SECONDS and more < MOST_OF_WEIGHTS * weights


if __name__ == "__main__":
    within = [measure("ResNet-50", resnet50, paddle.rand([1, 3, 32, 32])), measure("BERT-large", bert_large)]
    if not all(within):
        sys.exit("a conversion took too long, or held the weights twice")
