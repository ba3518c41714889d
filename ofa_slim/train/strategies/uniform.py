"""Every width at every depth, in each batch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ofa_slim.supernet.space import SearchSpace
from ofa_slim.supernet.subnet_config import SubnetConfig


class Uniform:
    """The sub-networks of one width and one depth for the whole model, all of them in each batch.

    Args:
        space: the axes.
        widths: shares of heads, neurons and channels.
        depths: shares of layers.

    Raises: IllegalSubnetError for a share that the model cannot have.

    Source: Hou et al. 2020, DynaBERT, arXiv:2004.04037.
    """

    def __init__(self, space: SearchSpace, widths: Sequence[float], depths: Sequence[float] = (1.0,)) -> None:
        self._configs = [space.uniform(width, depth) for depth in depths for width in widths]

    def __call__(self, rng: np.random.Generator) -> list[SubnetConfig]:
        """The configs, the same each time."""
        return list(self._configs)
