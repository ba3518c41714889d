"""Smaller models without training: orders, repair and sizes in closed form, from some unlabelled rows."""

from ofa_slim.closed_form.allocation import Curve, allocate, curve_sizes, measure_curves
from ofa_slim.closed_form.calibration import Calibration, without_labels
from ofa_slim.closed_form.divergence import divergence, mean_divergence, outputs_of
from ofa_slim.closed_form.layers import channel_removals, repair_layers
from ofa_slim.closed_form.obs import Removal
from ofa_slim.closed_form.order import Statistics, obs_importance, reorder_by_obs, statistics
from ofa_slim.closed_form.repair import Repair, SubLayerError, repair, repair_if_better

__all__ = [
    "Calibration",
    "Curve",
    "Removal",
    "Repair",
    "Statistics",
    "SubLayerError",
    "allocate",
    "channel_removals",
    "curve_sizes",
    "divergence",
    "mean_divergence",
    "measure_curves",
    "obs_importance",
    "outputs_of",
    "reorder_by_obs",
    "repair",
    "repair_if_better",
    "repair_layers",
    "statistics",
    "without_labels",
]
