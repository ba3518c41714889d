"""Which sub-networks a batch trains: a strategy is called once per batch and returns their configs.

A strategy is any callable that takes a `numpy.random.Generator` and returns a list of `SubnetConfig`, which
`OFA.train_step` takes as `configs`. The same generator state gives the same list, on every process.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ofa_slim.base.checks import check_kind, check_many, check_whole
from ofa_slim.errors import ConfigError
from ofa_slim.supernet.space import SearchSpace
from ofa_slim.supernet.subnet_config import SubnetConfig

__all__ = ["Sampled", "Sandwich", "Uniform"]


class Sampled:
    """Random sub-networks, every choice of every axis equally likely.

    Args:
        space: the axes with their choices.
        count: how many per batch, at least 1.

    Raises: ConfigError for another count.

    Source: Cai et al. 2020, Once-for-All, arXiv:1908.09791.
    """

    def __init__(self, space: SearchSpace, count: int = 1) -> None:
        check_kind(space, SearchSpace, "space", ConfigError)
        self._space = space
        check_whole(count, "count", 1, ConfigError)
        self._count = count

    def __call__(self, rng: np.random.Generator) -> list[SubnetConfig]:
        """The configs, new ones each time."""
        return [self._space.sample(rng) for _ in range(self._count)]


class Sandwich:
    """The sandwich rule: training the largest and the smallest sub-network bounds all those between.

    The smallest is the one from which nothing is left out; choices of 0 train in the random ones.

    Args:
        space: the axes with their choices.
        count: how many random sub-networks, every axis for itself, train beside the two; at least 0.

    Raises: ConfigError for another count.

    Source: Yu and Huang 2019, Universally Slimmable Networks, arXiv:1903.05134, section 3.1.
    """

    def __init__(self, space: SearchSpace, count: int = 2) -> None:
        check_kind(space, SearchSpace, "space", ConfigError)
        self._space = space
        check_whole(count, "count", 0, ConfigError)
        self._count = count
        # Of a model from which everything is left out there would be nothing to train.
        sizes = {axis.name: next((size for size in axis.choices if size), 0) for axis in space.axes}
        self._smallest = space.complete(sizes)

    def __call__(self, rng: np.random.Generator) -> list[SubnetConfig]:
        """The configs: the largest, the random ones, the smallest."""
        between = [self._space.sample(rng) for _ in range(self._count)]
        return [self._space.largest(), *between, self._smallest]


class Uniform:
    """The sub-networks with one width and one depth for the whole model, all of them in each batch.

    Args:
        space: the axes.
        widths: shares of heads, neurons and channels.
        depths: shares of layers.

    Raises: IllegalSubnetError for a share that the model cannot have; ConfigError for what is no list of shares.

    Source: Hou et al. 2020, DynaBERT, arXiv:2004.04037.
    """

    def __init__(self, space: SearchSpace, widths: Sequence[float], depths: Sequence[float] = (1.0,)) -> None:
        check_kind(space, SearchSpace, "space", ConfigError)
        for name, shares in (("widths", widths), ("depths", depths)):
            check_many(shares, name, "shares", ConfigError)
        self._configs = [space.uniform(width, depth) for depth in depths for width in widths]

    def __call__(self, rng: np.random.Generator) -> list[SubnetConfig]:
        """The configs, the same each time."""
        return list(self._configs)
