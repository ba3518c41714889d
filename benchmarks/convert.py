"""What converting a large model costs: seconds, and whether its weights are held twice.

A ResNet-50 and an encoder of BERT-large's shape are converted; memory is the process's, before and at its peak.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable

from paddle import nn
from paddle.vision.models import resnet50

from ofa_slim import Convert, supernet


def bert_large() -> nn.Layer:
    """24 blocks of 1,024 channels, 16 heads and 4,096 neurons, with the embedding table of BERT."""
    block = nn.TransformerEncoderLayer(1024, 16, 4096, activation="gelu")
    return nn.Sequential(nn.Embedding(30522, 1024), nn.TransformerEncoder(block, 24))


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(name: str, build: Callable[[], nn.Layer]) -> None:
    model = build()
    weights = sum(parameter.size for parameter in model.parameters()) * 4 / 2**20
    before, start = peak_mib(), time.perf_counter()
    Convert(supernet(expand_ratio=[0.25, 0.5, 1.0])).convert(model)
    seconds = time.perf_counter() - start
    print(f"{name}: {weights:.0f} MiB of weights, {seconds:.2f} s, {peak_mib() - before:.0f} MiB more at the peak")


if __name__ == "__main__":
    measure("ResNet-50", resnet50)
    measure("BERT-large", bert_large)
