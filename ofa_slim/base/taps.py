"""Recording the outputs of named layers while a model runs, and only then."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import paddle
from paddle import nn

from ofa_slim.base.nested import first_tensor


class Taps:
    """Records the outputs of some layers of a model.

    Args:
        layers: ``{name: layer}``.
    """

    def __init__(self, layers: Mapping[str, nn.Layer]) -> None:
        self.layers = dict(layers)

    @contextmanager
    def record(self) -> Iterator[dict[str, paddle.Tensor]]:
        """Collects ``{name: output}`` of the layers that run inside the block; the hooks are removed after it.

        If a layer runs more than once, its last output counts; if it returns several tensors, the first.
        """
        outputs: dict[str, paddle.Tensor] = {}
        hooks = [layer.register_forward_post_hook(_recorder(name, outputs)) for name, layer in self.layers.items()]
        try:
            yield outputs
        finally:
            for hook in hooks:
                hook.remove()


def _recorder(name: str, outputs: dict[str, paddle.Tensor]) -> Any:
    def hook(layer: nn.Layer, inputs: Any, output: Any) -> None:
        outputs[name] = first_tensor(output)

    return hook
