"""The gradients in a checkpoint.

Paddle's `clear_grad` leaves gradients of zeros, and an optimizer steps on those: momentum and decay also move a
parameter that a step did not reach. A parameter that was never reached has no gradient and stays. To go on with the
same bits, a checkpoint must keep the difference.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import paddle

from ofa_slim.errors import CheckpointError
from ofa_slim.train.checkpoint.parts import Part, TensorsPart

GRADIENTS = "paddle-gradients"  # the files' name


def gradients(parts: Mapping[str, Part]) -> dict[str, Any]:
    """The gradients of all layers and tensors: those of zeros by name, the others as tensors.

    Raises: CheckpointError for a sparse one.
    """
    states = {}
    for name, part in _with_tensors(parts).items():
        zeros, others = [], {}
        for key, tensor in part.tensors.items():
            gradient = tensor.grad
            if gradient is None:
                continue
            if not gradient.is_dense():
                raise CheckpointError(
                    f"part {name!r}: the gradient of {key!r} is sparse; save after clear_grad(set_to_zero=False)"
                )
            if bool(paddle.any(gradient != 0)):
                others[key] = gradient
            else:
                zeros.append(key)
        states[name] = {"zeros": zeros, "others": others}
    return states


def gradient_problems(parts: Mapping[str, Part], saved: Any) -> list[str]:
    """The reasons why saved gradients cannot be set; empty if they can."""
    problems = []
    for name, part in _with_tensors(parts).items():
        own = saved[name]
        known = {*own["zeros"], *own["others"]} <= set(part.tensors)
        if not known or any(list(one.shape) != list(part.tensors[key].shape) for key, one in own["others"].items()):
            problems.append(f"part {name!r}: its gradients are not those of its tensors")
    return problems


def set_gradients(parts: Mapping[str, Part], saved: Mapping[str, Any]) -> None:
    """Gives every parameter its saved gradient, or none."""
    for name, part in _with_tensors(parts).items():
        zeros, others = set(saved[name]["zeros"]), saved[name]["others"]
        for key, tensor in part.tensors.items():
            if key in zeros:
                tensor.grad = paddle.zeros_like(tensor)
            elif key in others:
                tensor.grad = others[key].to(tensor.place)
            elif tensor.grad is not None:
                tensor.clear_gradient(set_to_zero=False)


def _with_tensors(parts: Mapping[str, Part]) -> dict[str, TensorsPart]:
    return {name: part for name, part in parts.items() if isinstance(part, TensorsPart)}
