"""The largest, the smallest, and random ones between."""

from __future__ import annotations

import numpy as np

from ofa_slim.errors import ConfigError
from ofa_slim.supernet.space import SearchSpace
from ofa_slim.supernet.subnet_config import SubnetConfig
from ofa_slim.train.strategies.sampled import Sampled


class Sandwich:
    """The sandwich rule: what holds for the largest and the smallest sub-network holds for those between.

    Args:
        space: the axes with their choices.
        count: how many random sub-networks, every axis for itself, train beside the two; at least 0.

    Raises: ConfigError for another count.

    Source: Yu and Huang 2019, Universally Slimmable Networks, arXiv:1903.05134, section 3.1.
    """

    def __init__(self, space: SearchSpace, count: int = 2) -> None:
        if isinstance(count, bool) or not isinstance(count, int) or count < 0:
            raise ConfigError(f"count {count!r} is not a whole number of sub-networks of at least 0")
        self._ends = [space.largest(), space.smallest()]
        self._between = Sampled(space, count) if count else None

    def __call__(self, rng: np.random.Generator) -> list[SubnetConfig]:
        """The configs: the largest, the random ones, the smallest."""
        largest, smallest = self._ends
        return [largest, *(self._between(rng) if self._between else []), smallest]
