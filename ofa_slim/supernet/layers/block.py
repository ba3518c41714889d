"""The wrapper by which a supernet that is written by hand names its elastic layers."""

from __future__ import annotations

from typing import Any

from paddle import nn


class Block(nn.Layer):
    """A layer of a supernet that is written by hand.

    Args:
        fn: the layer, mostly an elastic one; its keys begin with ``fn.``, as in the published API.
        fixed: whether its choices take no part in sampling.
        key: its name in configs; None for its full name.
    """

    def __init__(self, fn: nn.Layer, fixed: bool = False, key: str | None = None) -> None:
        super().__init__()
        self.fn = fn
        self.fixed = fixed
        self.key = key

    @property
    def candidate_config(self) -> dict[str, tuple[float, ...]]:
        """The choices of the layer; none where it has none or is fixed."""
        return {} if self.fixed else getattr(self.fn, "candidate_config", {})

    def forward(self, *inputs: Any, **kwargs: Any) -> Any:
        """What the layer returns for these arguments."""
        return self.fn(*inputs, **kwargs)
