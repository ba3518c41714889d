"""Random sub-networks."""

from __future__ import annotations

import numpy as np

from ofa_slim.errors import ConfigError
from ofa_slim.supernet.space import SearchSpace
from ofa_slim.supernet.subnet_config import SubnetConfig


class Sampled:
    """Random sub-networks, every choice of every axis equally likely.

    Args:
        space: the axes with their choices.
        count: how many per batch, at least 1.

    Raises: ConfigError for another count.

    Source: Cai et al. 2020, Once-for-All, arXiv:1908.09791.
    """

    def __init__(self, space: SearchSpace, count: int = 1) -> None:
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ConfigError(f"count {count!r} is not a whole number of sub-networks of at least 1")
        self._space = space
        self._count = count

    def __call__(self, rng: np.random.Generator) -> list[SubnetConfig]:
        """The configs, new ones each time."""
        return [self._space.sample(rng) for _ in range(self._count)]
