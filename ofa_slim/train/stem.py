"""The stem: layers that embed the inputs, which all sub-networks of a step share and which run once per batch.

The sub-networks of a step get the same inputs, and no axis cuts these layers, so their outputs are the same and one
backward pass through them serves all: it starts from the sum of the sub-networks' gradients. For a BERT that saves a
look-up, a norm and above all a gradient of the size of the embedding table per sub-network. If such a layer has
dropout, all sub-networks of a step see the same entries dropped.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import paddle
from paddle import nn

from ofa_slim.base.modes import replaced_forward
from ofa_slim.base.nested import join, split, unsupported_leaf
from ofa_slim.supernet.space import SearchSpace


def stem_layers(model: nn.Layer, space: SearchSpace) -> list[nn.Layer]:
    """The topmost layers that contain an embedding and nothing that an axis of the space cuts."""
    layers = dict(model.named_sublayers(include_self=True))
    # By identity: a layer may be in the model under several names.
    return _topmost(model, {id(layers[slot.layer]) for axis in space.axes for slot in axis.slots})


def _topmost(layer: nn.Layer, cut: Collection[int]) -> list[nn.Layer]:
    parts = layer.sublayers(include_self=True)
    if not any(isinstance(part, nn.Embedding) for part in parts):
        return []
    if not any(id(part) in cut for part in parts):
        return [layer]
    return list({id(part): part for child in layer.children() for part in _topmost(child, cut)}.values())


@contextmanager
def shared(layers: Sequence[nn.Layer]) -> Iterator[list[SharedLayer]]:
    """Inside the block each layer runs once for all calls with the same input objects.

    Yields the shared layers; `SharedLayer.backward` passes the collected gradients on to their parameters.
    """
    found = [SharedLayer(layer) for layer in layers]
    with ExitStack() as replaced:
        for layer, once in zip(layers, found, strict=True):
            replaced.enter_context(replaced_forward(layer, once))
        yield found


class SharedLayer:
    """A forward that runs a layer once and returns detached outputs, which collect the gradients of all uses.

    Args:
        layer: its own forward runs at the first call, and at calls with other inputs.
    """

    def __init__(self, layer: nn.Layer) -> None:
        self._forward = layer.forward
        self._inputs: tuple[list[paddle.Tensor], list[int], Any] | None = None
        self._outputs: list[paddle.Tensor] = []
        self._leaves: list[paddle.Tensor] = []
        self._template: Any = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The layer's output, detached from its graph."""
        tensors, template = split((args, kwargs))
        versions = [tensor.inplace_version for tensor in tensors]
        if self._inputs is None:
            output = self._forward(*args, **kwargs)
            outputs, nesting = split(output)
            if unsupported_leaf(nesting) or unsupported_leaf(template):
                return output  # it may hide tensors, so it cannot be returned twice
            self._inputs = (tensors, versions, template)
            self._outputs, self._template = outputs, nesting
            self._leaves = [_leaf(tensor) for tensor in outputs]
        elif not self._same(tensors, versions, template):
            return self._forward(*args, **kwargs)
        return join(self._template, self._leaves)

    def backward(self) -> None:
        """Continues the backward pass from the gradients that the detached outputs have collected."""
        pairs = [
            (output, leaf.grad)
            for output, leaf in zip(self._outputs, self._leaves, strict=True)
            if not output.stop_gradient and leaf.grad is not None
        ]
        if pairs:
            outputs, gradients = zip(*pairs, strict=True)
            paddle.autograd.backward(list(outputs), list(gradients))

    def _same(self, tensors: list[paddle.Tensor], versions: list[int], template: Any) -> bool:
        known, known_versions, known_template = self._inputs or ([], [], None)
        return (
            len(tensors) == len(known)
            and all(one is other for one, other in zip(tensors, known, strict=True))
            and versions == known_versions
            and bool(template == known_template)
        )


def _leaf(tensor: paddle.Tensor) -> paddle.Tensor:
    if tensor.stop_gradient:
        return tensor
    leaf = tensor.detach()
    leaf.stop_gradient = False
    return leaf
