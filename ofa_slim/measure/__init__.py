"""How long sub-networks take: measured by the block, predicted by adding up, and measured as they are served."""

from ofa_slim.measure.latency_table import Conditions, LatencyTable
from ofa_slim.measure.models import Latency, measure_latency

__all__ = ["Conditions", "Latency", "LatencyTable", "measure_latency"]
