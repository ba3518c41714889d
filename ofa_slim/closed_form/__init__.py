"""Smaller models without training: orders, repair and sizes in closed form, from some unlabelled rows."""

from ofa_slim.closed_form.allocation import Curve, allocate, divergence, measure_curves
from ofa_slim.closed_form.calibration import Calibration
from ofa_slim.closed_form.obs import Removal
from ofa_slim.closed_form.order import Statistics, obs_importance, reorder_by_obs, statistics
from ofa_slim.closed_form.repair import SubLayerError, repair

__all__ = [
    "Calibration",
    "Curve",
    "Removal",
    "Statistics",
    "SubLayerError",
    "allocate",
    "divergence",
    "measure_curves",
    "obs_importance",
    "reorder_by_obs",
    "repair",
    "statistics",
]
