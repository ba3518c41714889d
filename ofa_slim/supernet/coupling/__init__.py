"""Which widths of a model must agree: traced once, joined by unification.

`program` reads a model's operations, the rules say what each means for the dimensions it touches, `terms`
makes two dimensions agree, `couple` turns the result into axes.
"""

from ofa_slim.supernet.coupling import compute_rules, layout_rules
from ofa_slim.supernet.coupling.couple import Holder, couple
from ofa_slim.supernet.coupling.program import trace

__all__ = ["Holder", "compute_rules", "couple", "layout_rules", "trace"]
