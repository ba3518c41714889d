"""How long sub-networks take: measured by the block, predicted by adding up, and measured as they are served."""

from ofa_slim.base.clock import Latency
from ofa_slim.measure.block_times import Conditions
from ofa_slim.measure.cost import Cost, CostModel, measured_cost
from ofa_slim.measure.latency_table import LatencyTable
from ofa_slim.measure.models import measure_latency

__all__ = ["Conditions", "Cost", "CostModel", "Latency", "LatencyTable", "measure_latency", "measured_cost"]
