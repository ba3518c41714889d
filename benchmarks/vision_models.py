"""What of Paddle's own vision models is elastic, and whether every sub-network is what it should be.

Each model is converted with three widths and three kernels and traced on one random image. Its smallest and some
seeded random sub-networks are tried: forward and backward in train mode with finite gradients, then an export
whose output must be the supernet's in eval mode, within 1e-4 of the largest, with exactly the parameters, operations
and activations that its config costs. In plain chains and residual networks the smallest sub-network has at most 15 %
of the model's convolution weights. A model that fails stops the run.
"""

from __future__ import annotations

import argparse
import math
import re
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import paddle
from paddle import nn
from paddle.vision import models

from ofa_slim import OFA, Convert, SearchSpace, SubnetConfig, supernet
from ofa_slim.base.examples import random_example
from ofa_slim.measure.cost import CostModel, measured_cost

WIDTHS, KERNELS = [0.25, 0.5, 1.0], (3, 5, 7)
TOLERANCE = 1e-4
SMALLEST_SHARE = 0.15  # of the convolution weights, in chains and residual networks

# The smallest square image that each takes; 32 pixels are enough for the others.
IMAGES = {"LeNet": 28, "alexnet": 224, "vgg11": 224, "squeezenet1_1": 64, "googlenet": 224, "inception_v3": 75}
NAMES = (
    "LeNet", "alexnet", "vgg11", "resnet18", "resnet50", "resnext50_32x4d", "wide_resnet50_2", "mobilenet_v1",
    "mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large", "squeezenet1_1", "densenet121", "googlenet",
    "inception_v3", "shufflenet_v2_x0_5",
)  # fmt: skip
CHAINS = (
    "LeNet", "alexnet", "vgg11", "resnet18", "resnet50", "resnext50_32x4d", "wide_resnet50_2", "mobilenet_v1",
    "mobilenet_v2",
)  # fmt: skip

# How the table words the reasons for which a layer stays whole.
SHORTER = (
    (r"its kernel size (\d+) is not between .*", r"kernel of \1"),
    (r"its kernel (\d+ x \d+) is not square", r"kernel of \1"),
    (r"it is (.*)", r"\1"),
    (r"(at a smaller width the forward fails):.*", r"\1"),
)


class WrongSubnetError(Exception):
    """A sub-network that is not what its config says."""


@dataclass
class Outcome:
    """What was found for one model."""

    name: str
    space: SearchSpace
    convert_seconds: float
    discover_seconds: float
    smallest_share: float
    difference: float


def images(name: str, count: int = 1) -> paddle.Tensor:
    side = IMAGES.get(name, 32)
    return paddle.randn([count, 1 if name == "LeNet" else 3, side, side])


def first_output(output: Any) -> paddle.Tensor:
    return output[0] if isinstance(output, (list, tuple)) else output


def convolution_weights(model: nn.Layer) -> int:
    return sum(math.prod(parameter.shape) for parameter in model.parameters() if parameter.ndim == 4)


def check(name: str, configs: int, seed: int = 0) -> Outcome:
    """Converts one model and tries its smallest and `configs` random sub-networks.

    Raises: WrongSubnetError for one that is not what its config says, or a smallest one that is too large.
    """
    paddle.seed(seed)
    model, image = getattr(models, name)(), images(name)
    model.eval()
    expected, weights = first_output(model(image)), convolution_weights(model)
    start = time.perf_counter()
    Convert(supernet(expand_ratio=WIDTHS, kernel_size=KERNELS)).convert(model)
    converted = time.perf_counter()
    ofa = OFA(model, example_inputs=image)
    found = time.perf_counter()
    space = ofa.search_space
    with ofa.subnet(space.original()):
        _same(name, "the model's own size", expected, first_output(ofa.model(image)))
    rng = np.random.default_rng(seed)
    costs = CostModel.of(ofa, list(image.shape))
    smallest, worst = _exported(ofa, name, space.smallest(), costs)
    share = convolution_weights(smallest) / weights
    if name in CHAINS and share > SMALLEST_SHARE:
        raise WrongSubnetError(f"{name}: the smallest sub-network has {share:.1%} of the convolution weights")
    for _ in range(configs):
        worst = max(worst, _exported(ofa, name, space.sample(rng), costs)[1])
    return Outcome(name, space, converted - start, found - converted, share, worst)


def _exported(ofa: OFA, name: str, config: SubnetConfig, cost_model: CostModel) -> tuple[nn.Layer, float]:
    """The exported sub-network, and how far its output is from the supernet's."""
    model, image = ofa.model, images(name)
    with ofa.subnet(config):
        model.train()
        first_output(model(images(name, 2))).square().sum().backward()
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        if not gradients or not all(bool(gradient.isfinite().all()) for gradient in gradients):
            raise WrongSubnetError(f"{name}: gradients are missing or not finite under {config}")
        model.clear_gradients()
        model.eval()
        with paddle.no_grad():
            expected = first_output(model(image))
    plain = ofa.export(config=config, input_shapes=list(image.shape), input_dtypes="float32")
    plain.eval()
    counted, costs = measured_cost(plain, random_example(plain, list(image.shape))), cost_model(config)
    if counted != costs or counted.params != sum(math.prod(parameter.shape) for parameter in plain.parameters()):
        raise WrongSubnetError(f"{name}: {counted}, and not {costs}, under {config}")
    with paddle.no_grad():
        return plain, _same(name, config, expected, first_output(plain(image)))


def _same(name: str, what: object, expected: paddle.Tensor, found: paddle.Tensor) -> float:
    """The largest difference, as a share of the largest output."""
    difference = float((found - expected).abs().max() / expected.abs().max())
    if not difference <= TOLERANCE:  # nor is one that is not a number
        raise WrongSubnetError(f"{name}: outputs differ by {difference:.3g} of the largest at {what}")
    return difference


def reasons(space: SearchSpace) -> str:
    """Why layers stay whole, in few words, each with how many."""
    counts: Counter[str] = Counter()
    for fixed in space.fixed:
        reason = fixed.reason
        for pattern, words in SHORTER:
            reason = re.sub(pattern, words, reason)
        counts[reason] += 1
    return ", ".join(f"{reason} ({count})" for reason, count in counts.most_common())


def row(outcome: Outcome) -> str:
    """One line of the table."""
    space = outcome.space
    elastic = Counter(axis.task for axis in space.axes if axis.elastic)
    return (
        f"| {outcome.name} | {elastic['width']} + {elastic['kernel_size']} | {reasons(space)} | "
        f"{100 * outcome.smallest_share:.1f} % | {outcome.difference:.1g} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--configs", type=int, default=20, help="random sub-networks per model (default 20)")
    parser.add_argument("--models", nargs="+", default=NAMES, choices=NAMES, metavar="NAME")
    options = parser.parse_args()
    if options.configs < 1:
        parser.error("--configs is at least 1")
    print("| model | elastic widths + kernels | whole width or kernel, and how many | smallest | difference |")
    print("| --- | --- | --- | --- | --- |")
    for name in options.models:
        print(row(check(name, options.configs)), flush=True)


if __name__ == "__main__":
    main()
