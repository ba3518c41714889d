"""Which axes have to stay at full size because the model's forward fails at smaller ones, found by running it."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import paddle
from paddle import nn

from ofa_slim.base.examples import Example
from ofa_slim.base.modes import eval_mode, train_mode_without_traces
from ofa_slim.errors import ConvertError
from ofa_slim.supernet.axis import WIDTH, Axis
from ofa_slim.supernet.discover import grown_roles, without
from ofa_slim.supernet.handle import Supernet
from ofa_slim.supernet.space import SearchSpace
from ofa_slim.supernet.subnet_config import SubnetConfig

logger = logging.getLogger(__name__)


def without_failing_axes(model: nn.Layer, space: SearchSpace, example: Example) -> SearchSpace:
    """The space with every axis at full size at whose smaller sizes the model's forward fails.

    A forward may contain a width (`reshape([n, 512])`); running the smallest sub-network shows it, in eval mode and,
    where the whole model runs with the example in train mode, in that too.

    Args:
        model: the supernet, unwrapped.
        space: its space.
        example: inputs to run it with.

    Raises: ConvertError where choices made layers larger and the model no longer runs at its own size.
    """
    supernet = Supernet(model, space)
    _check_original(supernet, example)
    left = [axis for axis in space.axes if axis.task == WIDTH and axis.elastic]
    failing: dict[str, str] = {}
    for training in (False, True):
        if training and failure_of(supernet, [], example, training=True) is not None:
            continue
        while found := _culprits(supernet, left, example, training):
            failing.update(found)
            left = [axis for axis in left if axis.name not in failing]
    if failing:
        logger.warning(
            "stay at full width, because the model's forward fails at a smaller one: %s (%s)",
            ", ".join(failing),
            next(iter(failing.values())),
        )
    return without(space, {name: f"at a smaller width the forward fails: {said}" for name, said in failing.items()})


def _check_original(supernet: Supernet, example: Example) -> None:
    """Raises ConvertError where a model that was made larger fails at the size that it had."""
    grown = grown_roles(supernet.model)
    if not grown:
        return
    error = _error_of(supernet, supernet.space.original(), example, training=False)
    if error is not None:
        raise ConvertError(
            f"the choices made layers larger ({next(iter(grown))!r} is the first), which the forward of "
            f"{type(supernet.model).__name__} does not allow: at its own size it fails with {error}; ratios up to 1 do "
            "not change them"
        )


def _culprits(supernet: Supernet, axes: list[Axis], example: Example, training: bool) -> dict[str, str]:
    """Those of some axes at whose smaller sizes the forward fails, with its error."""
    error = failure_of(supernet, axes, example, training)
    if error is None:
        return {}
    middle = len(axes) // 2
    found = {
        name: said
        for half in (axes[:middle], axes[middle:])
        if len(axes) > 1
        for name, said in _culprits(supernet, half, example, training).items()
    }
    return found or {axis.name: error for axis in axes}


def failure_of(supernet: Supernet, shrunk: Sequence[Axis], example: Example, training: bool = False) -> str | None:
    """The error of the forward with some axes at their smallest size and the rest full; None if it runs.

    An axis whose one choice is its full size can be smaller all the same, and runs one step below it.

    Args:
        supernet: the model with its space.
        shrunk: the axes at their smallest size.
        example: the inputs.
        training: whether the model runs in train mode; its running statistics and the random numbers that follow are
            as before in either case.
    """
    config = supernet.space.complete({axis.name: smallest_tried(axis) for axis in shrunk})
    return _error_of(supernet, config, example, training)


def smallest_tried(axis: Axis) -> int:
    """The size at which it is tried whether the forward runs with less than a whole axis."""
    return min(axis.choices[0], max(1, axis.size - 1))


def _error_of(supernet: Supernet, config: SubnetConfig, example: Example, training: bool) -> str | None:
    mode = train_mode_without_traces if training else eval_mode
    arguments = {**example.kwargs, **supernet.forward_arguments(config)}
    try:
        with supernet.using(config), mode(supernet.model), paddle.no_grad():
            supernet.model(*example.args, **arguments)
    except Exception as error:  # anything that the model's forward raises
        lines = [line.strip() for line in str(error).splitlines() if line.strip() and "----" not in line]
        return f"{type(error).__name__}: {lines[0] if lines else ''}"[:200]
    return None
