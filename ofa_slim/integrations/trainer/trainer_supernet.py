"""From a model and its settings to a supernet, its named sub-networks and the strategy that trains them."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
from paddle import nn

from ofa_slim.errors import ConfigError
from ofa_slim.integrations.trainer.arguments import NONE, ORIGINAL, OFAArguments
from ofa_slim.integrations.trainer.stack_layers import hidden_layers, only_stack
from ofa_slim.ofa import OFA
from ofa_slim.supernet import Convert, SearchSpace, SubnetConfig, supernet
from ofa_slim.supernet.handle import make_plain
from ofa_slim.supernet.run_config import RunConfig
from ofa_slim.train.distill_config import DistillConfig, DistillFn
from ofa_slim.train.strategies import Sampled, Sandwich, Uniform


def as_supernet(model: nn.Layer, settings: OFAArguments, teacher: nn.Layer | None, distance: DistillFn) -> OFA:
    """Makes a model elastic, in place, with a teacher beside it.

    Args:
        model: the fine-tuned model.
        settings: its widths and depths, and who teaches.
        teacher: in the place of the original.
        distance: between the mapped layers of student and teacher.

    Raises: ConfigError for settings that do not fit the model.
    """
    if teacher is not None and settings.teacher != ORIGINAL:
        raise ConfigError(f"a teacher was given, but OFAArguments says teacher {settings.teacher!r}")
    distill = None
    if settings.teacher != NONE:
        if teacher is None and settings.teacher == ORIGINAL:
            teacher = make_plain(copy.deepcopy(model))  # a supernet may have been left at any size
        distill = DistillConfig(
            lambda_distill=settings.lambda_distill,
            teacher_model="self" if teacher is None else teacher,
            mapping_layers=hidden_layers(model, settings.mapped_layers) if settings.lambda_distill else [],
            distill_fn=distance,
            teacher_engine="auto" if teacher is None else settings.teacher_engine,
        )
    count = len(only_stack(model).blocks)
    for share in settings.depths:
        if not round(share * count):
            raise ConfigError(f"depths: {share} of {count} blocks is none")
    depths = sorted({round(share * count) for share in (1.0, *settings.depths)})
    # The full width is always a choice, so that what is saved is the plain model.
    Convert(supernet(expand_ratio=sorted({1.0, *settings.widths}, reverse=True))).convert(model)
    return OFA(model, RunConfig(elastic_depth=depths if len(depths) > 1 else None), distill)


def named_subnets(space: SearchSpace, settings: OFAArguments) -> dict[str, SubnetConfig]:
    """Every width at every depth, as ``width_0.5``, or ``width_0.5_depth_0.5`` where depths differ."""
    found = {}
    for depth in settings.depths:
        for width in settings.widths:
            name = f"width_{float(width)}"
            if list(settings.depths) != [1.0]:
                name += f"_depth_{float(depth)}"
            found[name] = space.uniform(width, depth)
    return found


def strategy_of(space: SearchSpace, settings: OFAArguments) -> Callable[[np.random.Generator], list[SubnetConfig]]:
    """Which sub-networks a batch trains."""
    if settings.strategy == "uniform":
        return Uniform(space, settings.widths, settings.depths)
    return (Sandwich if settings.strategy == "sandwich" else Sampled)(space, settings.subnets)
