"""How long sub-networks take: measured by the block, predicted by adding up, and measured as they are served."""

from ofa_slim.latency.measure import Latency, measure_latency
from ofa_slim.latency.table import Conditions, LatencyTable

__all__ = ["Conditions", "Latency", "LatencyTable", "measure_latency"]
