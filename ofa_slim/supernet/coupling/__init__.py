"""Which widths of a model must agree: traced once, joined by unification.

`program` reads a model's operations, `rules` says what each means for the dimensions it touches, `terms`
makes two dimensions agree, `couple` turns the outcome into axes.
"""

from ofa_slim.supernet.coupling.couple import Holder, couple
from ofa_slim.supernet.coupling.program import tensors_in, trace

__all__ = ["Holder", "couple", "tensors_in", "trace"]
