"""Importance scores of heads, neurons and hidden channels, and reordering a model by them."""
