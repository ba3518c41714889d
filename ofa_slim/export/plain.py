"""The check that a model is plain."""

from __future__ import annotations

from paddle import nn

from ofa_slim.errors import ExportError
from ofa_slim.supernet.layers import ElasticLayer


def require_plain(model: nn.Layer, function: str) -> None:
    """Refuses a supernet: raises ExportError that names the function that needs a plain model."""
    if any(isinstance(layer, ElasticLayer) for layer in model.sublayers(include_self=True)):
        raise ExportError(f"{function} needs a plain model; cut one out of the supernet with OFA.export first")
