"""Train and eval mode, and the forwards of layers, put back after a block of code."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import paddle
from paddle import nn

_DROPPING = (nn.Dropout, nn.Dropout2D, nn.Dropout3D, nn.AlphaDropout, nn.MultiHeadAttention)


@contextmanager
def modes_kept(model: nn.Layer) -> Iterator[None]:
    """Puts the train or eval mode of every layer back after the block."""
    modes = [(layer, layer.training) for layer in model.sublayers(include_self=True)]
    try:
        yield
    finally:
        for layer, training in modes:
            if layer.training != training:  # to set an attribute of a layer takes longer than to read it
                layer.training = training


@contextmanager
def eval_mode(model: nn.Layer) -> Iterator[None]:
    """Eval mode inside the block; each layer's own mode after it."""
    with modes_kept(model):
        if any(layer.training for layer in model.sublayers(include_self=True)):
            model.eval()
        yield


def rest_dropout(model: nn.Layer) -> None:
    """Puts layers of dropout, and attentions with a rate of their own, into eval mode; all else stays as it is."""
    for layer in model.sublayers(include_self=True):
        if isinstance(layer, _DROPPING):
            layer.training = False


@contextmanager
def train_mode_without_traces(model: nn.Layer) -> Iterator[None]:
    """Train mode inside the block; after it modes, running statistics and random numbers are as if nothing had run."""
    kept = [(tensor, tensor.clone()) for tensor in (*model.parameters(), *model.buffers()) if tensor.stop_gradient]
    numbers = paddle.get_rng_state()
    try:
        with modes_kept(model):
            model.train()
            yield
    finally:
        paddle.set_rng_state(numbers)
        for tensor, value in kept:
            tensor.set_value(value)


@contextmanager
def forwards_kept(model: nn.Layer) -> Iterator[None]:
    """Puts the forward of every layer back after the block.

    Paddle 3.0 leaves the translated forward on every layer that it has traced; later releases take it back.
    """
    before = [(layer, vars(layer).get("forward")) for layer in model.sublayers(include_self=True)]
    try:
        yield
    finally:
        for layer, forward in before:
            _set_forward(layer, forward)


@contextmanager
def replaced_forward(layer: nn.Layer, function: Callable[..., Any]) -> Iterator[None]:
    """Inside the block, calling the layer calls `function` instead of its forward; hooks run as usual."""
    before = vars(layer).get("forward")
    _set_forward(layer, function)
    try:
        yield
    finally:
        _set_forward(layer, before)


def _set_forward(layer: nn.Layer, forward: Callable[..., Any] | None) -> None:
    """Gives one layer a forward of its own; None: that of its class again."""
    if forward is None:
        vars(layer).pop("forward", None)
    else:
        vars(layer)["forward"] = forward


def forward_signature(model: nn.Layer) -> inspect.Signature:
    """The signature of a model's forward, also where `paddle.jit.to_static` has decorated it."""
    return inspect.signature(getattr(model.forward, "dygraph_function", model.forward))


def undecorate(model: nn.Layer) -> bool:
    """Takes back `paddle.jit.to_static` of a model and its layers, in place; whether there was any.

    A decorated forward runs the program that was traced, whatever its layers have become since.
    """
    found = False
    for layer in model.sublayers(include_self=True):
        original = getattr(vars(layer).get("forward"), "dygraph_function", None)
        if original is None:
            continue
        found = True
        del vars(layer)["forward"]
        if getattr(original, "__func__", original) is not type(layer).forward:
            vars(layer)["forward"] = original
    return found


@contextmanager
def plain_forwards(model: nn.Layer) -> Iterator[None]:
    """Runs a model layer by layer inside the block, also where `paddle.jit.to_static` has decorated it."""
    with forwards_kept(model):
        undecorate(model)
        yield
