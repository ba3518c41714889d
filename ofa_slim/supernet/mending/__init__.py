"""What stands in the way of smaller sub-networks in a model's own forward, and what of it can follow the widths."""

from ofa_slim.supernet.mending.failing import without_failing_axes
from ofa_slim.supernet.mending.running import failure_of, smallest_tried

__all__ = ["failure_of", "smallest_tried", "without_failing_axes"]
