"""A small residual CNN on digits at half and a quarter of its channels without training: sliced against repaired.

The network of `examples/digits`, one block per stage, trained for a few epochs; its training images calibrate, without
labels, and the test images score.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "examples"))

from digits.data import Digits, batches, load_digits
from digits.network import DigitsNet
from digits.training import accuracy
from ofa_slim import OFA, Convert, supernet
from ofa_slim.closed_form import Calibration, channel_removals, repair_layers
from ofa_slim.ordering.reorder import reorder_axis

WIDTHS = (0.5, 0.25)
SHAPES = [[4, 1, 8, 8]]


def trained(digits: Digits, seed: int, epochs: int) -> nn.Layer:
    paddle.seed(seed)
    rng, network = np.random.default_rng(seed), DigitsNet(16, 1, 3)
    optimizer = paddle.optimizer.AdamW(3e-3, parameters=network.parameters())
    for epoch in range(epochs):
        if epoch == epochs - 3:
            optimizer.set_lr(5e-4)
        for images, labels in batches(digits, 64, rng):
            F.cross_entropy(network(images), labels).backward()
            optimizer.step()
            optimizer.clear_grad()
    network.eval()
    return network


def one_seed(digits: Digits, seed: int, epochs: int) -> dict[str, float]:
    network = trained(digits, seed, epochs)
    found = {"original": accuracy(network, digits)}
    images = paddle.to_tensor(digits.images)
    parts = [images[start : start + 64] for start in range(0, len(images), 64)]
    ofa = OFA(Convert(supernet(expand_ratio=[1.0, *WIDTHS])).convert(network), example_inputs=parts[0][:4])
    space, calibration = ofa.search_space, Calibration(network, parts)
    start = time.perf_counter()
    removals = channel_removals(network, space, calibration)
    found["seconds of the order"] = round(time.perf_counter() - start, 1)
    for order in ("as trained", "OBS"):
        if order == "OBS":
            for axis in space.axes:
                if axis.name in removals:
                    reorder_axis(network, axis, removals[axis.name].order)
        for width in WIDTHS:
            config = space.uniform(width)
            small = ofa.export(config=config, input_shapes=SHAPES)
            found[f"{order}, sliced {width}"] = accuracy(small, digits)
            recalibrated = ofa.export(config=config, input_shapes=SHAPES, loader=parts)
            found[f"{order}, sliced, batch norms re-estimated {width}"] = accuracy(recalibrated, digits)
            start = time.perf_counter()
            repair_layers(small, network, space.layer_sizes(config), calibration)
            found[f"seconds of the repair {width}"] = round(time.perf_counter() - start, 1)
            found[f"{order}, repaired {width}"] = accuracy(small, digits)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--epochs", type=int, default=12)
    options = parser.parse_args()
    digits = load_digits()
    runs = [one_seed(digits, seed, options.epochs) for seed in options.seeds]
    for name in runs[0]:
        print(f"{name}: " + ", ".join(f"{run[name]:.2f}" for run in runs))
    print(json.dumps({"benchmark": "closed_form_digits", "runs": runs}))


if __name__ == "__main__":
    main()
