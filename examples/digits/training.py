"""Training the supernet, and the same architectures alone; scoring both."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import nn
from tqdm import tqdm

from digits.data import Digits, batches
from digits.network import DigitsNet
from ofa_slim import OFA, Convert, DistillConfig, RunConfig, SearchSpace, SubnetConfig, supernet

RATIOS, DEPTHS, KERNELS = (0.25, 0.5, 1.0), (1, 2), (3, 5)
IMAGE = [1, 1, 8, 8]
WEIGHT_DECAY = 0.02

# Images, labels and the epoch to a loss, gradients left behind.
Step = Callable[[paddle.Tensor, paddle.Tensor, int], paddle.Tensor]


class DivergedError(Exception):
    """A training whose loss is no number any more."""


@dataclass(frozen=True)
class Settings:
    """How long, how fast and how large; the options of the command line."""

    teacher_epochs: int = 8
    epochs: int = 52
    batch_size: int = 32
    learning_rate: float = 6e-3
    width: int = 16
    samples: int = 1

    def check(self, images: int) -> None:
        """Raises `ValueError` for what cannot be trained on that many images."""
        for name, least in (("teacher_epochs", 1), ("epochs", 4), ("batch_size", 2), ("samples", 1), ("width", 4)):
            if getattr(self, name) < least:
                raise ValueError(f"--{name} {getattr(self, name)} is not at least {least}")
        if self.batch_size > images:
            raise ValueError(f"--batch_size {self.batch_size} is more than the {images} training images")
        if self.width % 4:
            raise ValueError(f"--width {self.width} is not a multiple of 4")
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"--learning_rate {self.learning_rate} is not a number above 0")

    def phases(self) -> list[list[int]]:
        """The epochs at which the phases of kernels, depth and width end: each a tenth, the last the rest."""
        tenth = max(1, self.epochs // 10)
        return [[tenth], [2 * tenth], [3 * tenth, self.epochs]]


@dataclass(frozen=True)
class Course:
    """One training: its length, its steps, the highest learning rate, the seed of its batches, and its name."""

    epochs: int
    batch_size: int
    learning_rate: float
    seed: int
    title: str


@dataclass(frozen=True)
class Corner:
    """One corner of the search space."""

    wide: bool
    deep: bool

    @property
    def name(self) -> str:
        """What the table calls it."""
        return f"{'wide' if self.wide else 'narrow'}, {'deep' if self.deep else 'shallow'}"

    @property
    def depth(self) -> int:
        """Blocks per stage."""
        return DEPTHS[-1 if self.deep else 0]

    @property
    def kernel(self) -> int:
        """Size of every kernel."""
        return KERNELS[-1 if self.deep else 0]

    def config(self, space: SearchSpace) -> SubnetConfig:
        """This corner as a sub-network: the largest or the smallest choice of every axis."""
        return SubnetConfig({axis.name: axis.choices[-1 if self._large(axis.task) else 0] for axis in space.axes})

    def network(self, width: int) -> DigitsNet:
        """A new network of this architecture."""
        return DigitsNet(int(RATIOS[-1 if self.wide else 0] * width), self.depth, self.kernel)

    def _large(self, task: str) -> bool:
        return self.wide if task == "width" else self.deep


CORNERS = tuple(Corner(wide, deep) for wide in (True, False) for deep in (True, False))


@dataclass(frozen=True)
class Score:
    """Accuracy in percent of one corner on the test images."""

    corner: str
    parameters: int
    supernet: float
    exported: float
    alone: float


@dataclass(frozen=True)
class SeedRun:
    """What one seed gave, and how long its parts took."""

    seed: int
    scores: list[Score]
    seconds: dict[str, float]


def run_seed(seed: int, digits: Digits, settings: Settings) -> SeedRun:
    """The whole protocol for one seed.

    Raises: DivergedError where a loss is no number.
    """
    start, processor = time.perf_counter(), time.process_time()
    model = train_alone(CORNERS[0], digits, settings, settings.teacher_epochs, seed, "teacher")
    ofa = build_supernet(model, settings, len(digits.labels))
    train_supernet(ofa, digits, settings, seed)
    trained = time.perf_counter()
    epochs = settings.teacher_epochs + settings.epochs
    scores = []
    for corner in CORNERS:
        inside, plain = score_in_supernet(ofa, corner, digits)
        alone = train_alone(corner, digits, settings, epochs, seed, f"{corner.name}, alone")
        parameters = sum(int(parameter.size) for parameter in plain.parameters())
        scores.append(Score(corner.name, parameters, inside, accuracy(plain, digits), accuracy(alone, digits)))
    seconds = {
        "supernet": trained - start,
        "alone": time.perf_counter() - trained,
        "processor": time.process_time() - processor,  # of all threads; does not count other work on the machine
    }
    return SeedRun(seed, scores, seconds)


def train_alone(corner: Corner, digits: Digits, settings: Settings, epochs: int, seed: int, title: str) -> DigitsNet:
    """A network of a corner's architecture, trained from scratch on labels."""
    paddle.seed(seed)
    network = corner.network(settings.width)

    def step(images: paddle.Tensor, labels: paddle.Tensor, epoch: int) -> paddle.Tensor:
        loss = F.cross_entropy(network(images), labels)
        loss.backward()
        return loss

    title = f"seed {seed}: {title}"
    _train(network, step, digits, Course(epochs, settings.batch_size, settings.learning_rate, seed, title))
    return network


def build_supernet(model: DigitsNet, settings: Settings, images: int) -> OFA:
    """Turns a trained model into a supernet, in place, with a copy of it as the teacher."""
    teacher = copy.deepcopy(model)
    Convert(supernet(kernel_size=KERNELS, expand_ratio=list(RATIOS))).convert(model)
    run = RunConfig(
        n_epochs=settings.phases(),
        total_images=images - images % settings.batch_size,  # an incomplete batch is left out
        train_batch_size=settings.batch_size,
        dynamic_batch_size=[settings.samples] * 3,
        elastic_depth=DEPTHS,
    )
    distill = DistillConfig(teacher_model=teacher, mapping_layers=["head"], distill_fn=soft_cross_entropy)
    order = ["kernel_size", "depth", "width"]
    return OFA(model, run, distill, elastic_order=order, example_inputs=paddle.rand(IMAGE))


def soft_cross_entropy(student: paddle.Tensor, teacher: paddle.Tensor) -> paddle.Tensor:
    """How far the student's scores [batch, 10] are from the teacher's probabilities."""
    return F.cross_entropy(student, F.softmax(teacher), soft_label=True)


def train_supernet(ofa: OFA, digits: Digits, settings: Settings, seed: int) -> None:
    """Progressive shrinking; each step trains the corners that the phase offers and some sub-networks at random."""
    space = ofa.search_space
    corners = [corner.config(space) for corner in CORNERS]
    last_phase = settings.phases()[-1][0]  # from this epoch on
    ofa.rng = np.random.default_rng(seed)

    def step(images: paddle.Tensor, labels: paddle.Tensor, epoch: int) -> paddle.Tensor:
        fixed = corners if epoch >= last_phase else corners[:1]
        losses = []
        for config in [*fixed, *[None] * settings.samples]:
            ofa.set_net_config(config)  # None: one that the schedule allows is drawn
            student, _ = ofa(images)
            loss = F.cross_entropy(student, labels) + ofa.calc_distill_loss()
            loss.backward()
            losses.append(loss.detach())
        return paddle.add_n(losses)

    rate = settings.learning_rate
    _train(ofa, step, digits, Course(settings.epochs, settings.batch_size, rate, seed, f"seed {seed}: supernet"))


def score_in_supernet(ofa: OFA, corner: Corner, digits: Digits) -> tuple[float, DigitsNet]:
    """The accuracy of a corner inside the supernet, and the corner as a plain model."""
    config, loader = corner.config(ofa.search_space), [paddle.to_tensor(digits.images)]
    plain = ofa.export(config=config, input_shapes=IMAGE, loader=loader)
    with ofa.subnet(config):
        ofa.recalibrate(loader)
        inside = accuracy(ofa.model, digits, corner.depth)
    plain.drop_blocks(corner.depth)
    return inside, plain


def accuracy(network: nn.Layer, digits: Digits, depth: int | None = None) -> float:
    """Percent of the test images that are told right."""
    network.eval()
    with paddle.no_grad():
        found = network(paddle.to_tensor(digits.test_images), depth=depth).argmax(axis=1).numpy()
    return 100 * float((found == digits.test_labels).mean())


def _train(network: nn.Layer, step: Step, digits: Digits, course: Course) -> None:
    """AdamW over some epochs; `step` leaves gradients and returns a loss."""
    per_epoch = len(digits.labels) // course.batch_size
    cosine = paddle.optimizer.lr.CosineAnnealingDecay(course.learning_rate, course.epochs * per_epoch)
    rate = paddle.optimizer.lr.LinearWarmup(cosine, per_epoch, 0.0, course.learning_rate)
    optimizer = paddle.optimizer.AdamW(rate, parameters=network.parameters(), weight_decay=WEIGHT_DECAY)
    rng = np.random.default_rng(course.seed)
    network.train()
    with tqdm(total=course.epochs * per_epoch, desc=course.title, leave=False, disable=None) as progress:
        for epoch in range(course.epochs):
            for images, labels in batches(digits, course.batch_size, rng):
                loss = step(images, labels, epoch)
                optimizer.step()
                optimizer.clear_grad()
                rate.step()
                progress.update()
            if not math.isfinite(float(loss)):
                raise DivergedError(f"{course.title}: the loss became {float(loss)}; try a lower --learning_rate")
