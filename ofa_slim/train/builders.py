"""The parts of an `OFA` of a model of blocks: elastic widths and depths, a teacher, strategies.

The command line, `OFATrainer` and scripts share these; each passes the parts to `OFA` itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from paddle import nn

from ofa_slim.base.copies import copied
from ofa_slim.base.unwrap import unwrap
from ofa_slim.errors import ConfigError
from ofa_slim.supernet import Convert, SearchSpace, SubnetConfig, supernet
from ofa_slim.supernet.axis import WIDTH
from ofa_slim.supernet.discover import full_space
from ofa_slim.supernet.families import find_stacks
from ofa_slim.supernet.handle import make_plain
from ofa_slim.supernet.run_config import RunConfig
from ofa_slim.supernet.twin_blocks import twin_blocks
from ofa_slim.train.distill_config import DistillConfig, DistillFn
from ofa_slim.train.stack_layers import hidden_layers, only_stack
from ofa_slim.train.strategies import Sampled, Sandwich, Uniform
from ofa_slim.train.teacher import TeacherCache

Strategy = Callable[[np.random.Generator], list[SubnetConfig]]
STRATEGIES = ("uniform", "sandwich", "sampled")


WIDTHS = (0.75, 0.5, 0.25)
"""Shares that suit most models; heads are rounded to whole ones."""


def near_ratios(model: nn.Layer, shares: Sequence[float] = WIDTHS) -> dict[str, list[float]]:
    """For each width of a model of a known family the legal ratios that are nearest to some shares, and 1.0."""
    axes = [axis for axis in full_space(model).axes if axis.task == WIDTH and not axis.fixed_reason]
    sizes = {axis: {max(1, round(share * axis.size)) for share in (1.0, *shares)} for axis in axes}
    return {axis.name: [axis.ratio_of(size) for size in sorted(kept, reverse=True)] for axis, kept in sizes.items()}


def elastic_blocks(model: nn.Layer, widths: Sequence[float] | None, depths: Sequence[float]) -> RunConfig:
    """Makes the widths of a model's blocks elastic, in place; returns the limits of its depth.

    Args:
        model: a model of a known family with one stack of blocks.
        widths: shares of heads and feed-forward neurons; None: those of `near_ratios`.
        depths: shares of blocks. The full width and depth are always among the choices, so that what is saved is the
            plain model.

    Raises: ConfigError for a model without one stack of blocks, or a share that leaves no block.
    """
    count = len(only_stack(model).blocks)
    for share in depths:
        if not round(share * count):
            raise ConfigError(f"depths: {share} of {count} blocks is none")
    kept = sorted({round(share * count) for share in (1.0, *depths)})
    ratios = near_ratios(model) if widths is None else sorted({1.0, *widths}, reverse=True)
    Convert(supernet(expand_ratio=ratios)).convert(model)
    return RunConfig(elastic_depth=kept if len(kept) > 1 else None)


@dataclass(frozen=True)
class Teaching:
    """What the sub-networks of a model of blocks learn from a teacher.

    Attributes:
        teacher: the model that teaches; None: a copy of the model as it is, or `own`.
        own: whether the largest sub-network teaches the others.
        lambda_distill: weight of the mapped hidden layers' loss; 0 maps none.
        mapped_layers: as in `hidden_layers`.
        distance: between a student's and the teacher's layer; None: the mean squared error.
        engine: how the teacher runs; see `DistillConfig`.
        cache: keeps the teacher's answers.
    """

    teacher: nn.Layer | None = None
    own: bool = False
    lambda_distill: float = 0.1
    mapped_layers: Sequence[str] | None = None
    distance: DistillFn | None = None
    engine: str = "auto"
    cache: TeacherCache | None = None

    def config(self, model: nn.Layer) -> DistillConfig:
        """The configuration for a model that is not elastic yet; it may have fewer blocks than the teacher.

        Raises: ConfigError for a mapped layer that the model does not have.
        """
        teacher = self.teacher
        if teacher is None and not self.own:
            teacher = make_plain(copied(model))  # a supernet may have been left at any size
        mapped = hidden_layers(model, self.mapped_layers) if self.lambda_distill else []
        return DistillConfig(
            lambda_distill=self.lambda_distill,
            teacher_model="self" if teacher is None else teacher,
            mapping_layers=mapped if teacher is None else _in_teacher(mapped, model, unwrap(teacher)),
            distill_fn=self.distance,
            teacher_engine="auto" if teacher is None else self.engine,
            cache_teacher=self.cache,
        )


def _in_teacher(paths: Sequence[str], model: nn.Layer, teacher: nn.Layer) -> dict[str, str]:
    """For layers of a model, those of its teacher: of one with more blocks the same that a smaller depth keeps."""
    small, large = (len(stacks[0].blocks) if len(stacks := find_stacks(one)) == 1 else 0 for one in (model, teacher))
    twins = twin_blocks(model, teacher) if 0 < small < large else {}
    return {path: twins.get(path, path) for path in paths}


def only_subnet(model: nn.Layer) -> RunConfig:
    """Makes a plain model a supernet, in place, whose only sub-network is the model: it trains like any other."""
    Convert(supernet(expand_ratio=[1.0])).convert(model)
    return RunConfig()


def strategy_of(
    name: str, space: SearchSpace, widths: Sequence[float], depths: Sequence[float], random_subnets: int
) -> Strategy:
    """Which sub-networks a batch trains.

    Args:
        name: one of `STRATEGIES`: every width at every depth; the largest, the smallest and random ones; random ones.
        space: the axes with their choices.
        widths: for ``"uniform"``, shares of heads and neurons.
        depths: for ``"uniform"``, shares of blocks.
        random_subnets: for the others, how many random ones.
    """
    if name == "uniform":
        return Uniform(space, widths, depths)
    return (Sandwich if name == "sandwich" else Sampled)(space, random_subnets)
