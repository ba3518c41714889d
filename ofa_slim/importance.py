"""Scores of heads, neurons, channels and traced widths by |parameter · gradient|, and reordering a model by them."""

from ofa_slim.ordering.hidden import compute_hidden_importance, reorder_hidden
from ofa_slim.ordering.scores import (
    compute_neuron_head_importance,
    reorder_head,
    reorder_neuron,
    reorder_neuron_head,
)
from ofa_slim.ordering.widths import compute_width_importance, reorder_widths

__all__ = [
    "compute_hidden_importance",
    "compute_neuron_head_importance",
    "compute_width_importance",
    "reorder_head",
    "reorder_hidden",
    "reorder_neuron",
    "reorder_neuron_head",
    "reorder_widths",
]
