"""Which sub-networks a batch trains: a strategy is drawn once per batch and gives their configs.

A strategy is any callable that takes a `numpy.random.Generator` and returns a list of `SubnetConfig`, what
`OFA.train_step` takes as `configs`. The same generator state gives the same list, on every process.
"""

from ofa_slim.train.strategies.sampled import Sampled
from ofa_slim.train.strategies.sandwich import Sandwich
from ofa_slim.train.strategies.uniform import Uniform

__all__ = ["Sampled", "Sandwich", "Uniform"]
