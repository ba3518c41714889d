"""What of Paddle's own vision models is elastic, and whether every sub-network is what it should be.

Each model is converted with three widths and three kernels, traced on one random image, and tried with seeded
random sub-networks: forward and backward, then an export whose output must be the supernet's within 1e-4
relative, with exactly as many parameters as the config says. A model that fails stops the run.
"""

from __future__ import annotations

import argparse
import math
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import paddle
from paddle import nn
from paddle.vision import models

from ofa_slim import OFA, Convert, SearchSpace, SubnetConfig, supernet
from ofa_slim.supernet.spec import length, spec_of

WIDTHS, KERNELS = [0.25, 0.5, 1.0], (3, 5, 7)
TOLERANCE = 1e-4

# The smallest square image that each takes; 32 pixels are enough for the others.
IMAGES = {"LeNet": 28, "alexnet": 224, "vgg11": 224, "squeezenet1_1": 64, "googlenet": 224, "inception_v3": 75}
NAMES = (
    "LeNet", "alexnet", "vgg11", "resnet18", "resnet50", "resnext50_32x4d", "wide_resnet50_2", "mobilenet_v1",
    "mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large", "squeezenet1_1", "densenet121", "googlenet",
    "inception_v3", "shufflenet_v2_x0_5",
)  # fmt: skip


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


def parameters_of(model: nn.Layer, space: SearchSpace, config: SubnetConfig) -> int:
    """How many numbers a sub-network holds, counted from its config."""
    sizes = space.layer_sizes(config)
    total = 0
    for path, layer in model.named_sublayers(include_self=True):
        spec = spec_of(layer)
        for name, parameter in layer.named_parameters(include_sublayers=False):
            shape = list(parameter.shape)
            if spec is not None and name in spec.params:
                roles = spec.roles(layer, name)
                shape = [length(sizes.get(path, {}).get(role, size)) for role, size in zip(roles, shape, strict=True)]
            total += math.prod(shape)
    return total


def convolution_weights(model: nn.Layer) -> int:
    return sum(math.prod(parameter.shape) for parameter in model.parameters() if parameter.ndim == 4)


def check(name: str, configs: int, seed: int = 0) -> Outcome:
    """Converts one model and tries its smallest and some random sub-networks.

    Raises: WrongSubnetError for one that is not what its config says.
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
    worst, share = 0.0, 0.0
    for number in range(configs):
        config = space.sample(rng) if number else space.smallest()
        plain, difference = _exported(ofa, name, config)
        worst = max(worst, difference)
        if not number:
            share = convolution_weights(plain) / weights
    return Outcome(name, space, converted - start, found - converted, share, worst)


def _exported(ofa: OFA, name: str, config: SubnetConfig) -> tuple[nn.Layer, float]:
    """The exported sub-network, and how far its output is from the supernet's."""
    model, image = ofa.model, images(name)
    with ofa.subnet(config):
        model.train()
        first_output(model(images(name, 2))).sum().backward()
        model.clear_gradients()
        model.eval()
        with paddle.no_grad():
            expected = first_output(model(image))
    plain = ofa.export(config=config, input_shapes=list(image.shape), input_dtypes="float32")
    plain.eval()
    counted = sum(math.prod(parameter.shape) for parameter in plain.parameters())
    if counted != parameters_of(model, ofa.search_space, config):
        raise WrongSubnetError(f"{name}: {counted} parameters under {config}")
    with paddle.no_grad():
        return plain, _same(name, config, expected, first_output(plain(image)))


def _same(name: str, what: object, expected: paddle.Tensor, found: paddle.Tensor) -> float:
    difference = float((found - expected).abs().max() / max(1.0, float(expected.abs().max())))
    if not difference <= TOLERANCE:
        raise WrongSubnetError(f"{name}: outputs differ by {difference:.3g} at {what}")
    return difference


def row(outcome: Outcome) -> str:
    """One line of the table."""
    space = outcome.space
    elastic = Counter(axis.task for axis in space.axes if axis.elastic)
    reasons = Counter(fixed.reason.split(":")[0] for fixed in space.fixed)
    whole = ", ".join(f"{count}: {reason}" for reason, count in reasons.most_common())
    return (
        f"| {outcome.name} | {elastic['width']} + {elastic['kernel_size']} | {whole} | "
        f"{100 * outcome.smallest_share:.1f} % | {outcome.difference:.0e} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--configs", type=int, default=20, help="sub-networks per model (default 20)")
    parser.add_argument("--models", nargs="+", default=NAMES, choices=NAMES, metavar="NAME")
    options = parser.parse_args()
    if options.configs < 1:
        parser.error("--configs is at least 1")
    print("| model | elastic widths + kernels | layers kept whole, and why | smallest | difference |")
    print("| --- | --- | --- | --- | --- |")
    for name in options.models:
        print(row(check(name, options.configs)), flush=True)


if __name__ == "__main__":
    main()
