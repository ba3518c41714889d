"""Running a sub-network to see whether and where the model's forward fails."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import CodeType
from typing import Any

import paddle
from paddle import nn

from ofa_slim.base.examples import Example
from ofa_slim.base.modes import eval_mode, train_mode_without_traces
from ofa_slim.supernet.axis import Axis
from ofa_slim.supernet.handle import Supernet
from ofa_slim.supernet.subnet_config import SubnetConfig


@dataclass(frozen=True)
class Frame:
    """A forward that was running when a model failed.

    Attributes:
        path: attribute path of the layer whose code it is.
        line: the line that was running.
        names: what its code names.
    """

    path: str
    line: int
    names: frozenset[str] = field(compare=False, repr=False)


@dataclass(frozen=True)
class Failure:
    """How a forward failed.

    Attributes:
        error: its error, one line.
        frames: the forwards of the model's layers that were running, the innermost first.
        begun: how many layers had been called.
    """

    error: str
    frames: tuple[Frame, ...]
    begun: int

    def same_place(self, other: Failure | None) -> bool:
        """Whether another failure is at the same line of the same layer."""
        return other is not None and (self.frames, self.begun) == (other.frames, other.begun)

    def before(self, other: Failure | None) -> bool:
        """Whether another run came further; None: it came to the end."""
        if other is None or self.begun != other.begun:
            return other is None or self.begun < other.begun
        mine, its = ([(frame.path, frame.line) for frame in reversed(one.frames)] for one in (self, other))
        return mine != its and [line for _, line in mine] < [line for _, line in its]


@dataclass
class Probe:
    """Runs sub-networks of a model on an example.

    Attributes:
        supernet: the model with its space.
        example: the inputs.
        training: whether the model runs in train mode; its running statistics and the random numbers that follow are
            as before in either case.
    """

    supernet: Supernet
    example: Example
    training: bool = False

    def failure(self, config: SubnetConfig) -> Failure | None:
        """How the forward fails with a config; None if it runs."""
        model = self.supernet.model
        with _counted_calls(model) as begun:
            try:
                self.outputs(config)
            except Exception as error:  # anything that the model's forward raises
                lines = [line.strip() for line in str(error).splitlines() if line.strip() and "----" not in line]
                said = f"{type(error).__name__}: {lines[0] if lines else ''}"[:200]
                return Failure(said, tuple(_frames(error, model)), len(begun))
        return None

    def outputs(self, config: SubnetConfig) -> Any:
        """What the forward returns with a config."""
        mode = train_mode_without_traces if self.training else eval_mode
        arguments = {**self.example.kwargs, **self.supernet.forward_arguments(config)}
        with self.supernet.using(config), mode(self.supernet.model), paddle.no_grad():
            return self.supernet.model(*self.example.args, **arguments)

    def shrunk(self, sizes: Mapping[str, int]) -> SubnetConfig:
        """The config with some axes at these sizes and the rest full."""
        return self.supernet.space.complete(sizes)


def failure_of(supernet: Supernet, shrunk: Sequence[Axis], example: Example, training: bool = False) -> str | None:
    """The error of the forward with some axes at their smallest size and the rest full; None if it runs.

    An axis whose one choice is its full size can be smaller all the same, and runs one step below it.

    Args:
        supernet: the model with its space.
        shrunk: the axes at their smallest size.
        example: the inputs.
        training: whether the model runs in train mode.
    """
    probe = Probe(supernet, example, training)
    found = probe.failure(probe.shrunk({axis.name: smallest_tried(axis) for axis in shrunk}))
    return None if found is None else found.error


def smallest_tried(axis: Axis) -> int:
    """The size at which it is tried whether the forward runs with less than a whole axis."""
    return min(axis.choices[0], max(1, axis.size - 1))


def _frames(error: BaseException, model: nn.Layer) -> Iterator[Frame]:
    paths = {id(layer): path for path, layer in model.named_sublayers(include_self=True)}
    found = []
    paddles = nn.Layer.__call__.__code__.co_filename  # Paddle's own `Layer.__call__` and the like run for every layer
    trace = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        owner = trace.tb_frame.f_locals.get(code.co_varnames[0]) if code.co_argcount else None
        if id(owner) in paths and code.co_filename != paddles:
            found.append(Frame(paths[id(owner)], trace.tb_lineno, frozenset(_names(code))))
        trace = trace.tb_next
    yield from reversed(found)


def _names(code: CodeType) -> Iterator[str]:
    """The names in a code, and in comprehensions and functions inside it."""
    yield from code.co_names
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _names(inner)


@contextmanager
def _counted_calls(model: nn.Layer) -> Iterator[list[None]]:
    begun: list[None] = []

    def count(layer: nn.Layer, inputs: Any) -> Any:
        begun.append(None)

    handles = [layer.register_forward_pre_hook(count) for layer in model.sublayers(include_self=True)]
    try:
        yield begun
    finally:
        for handle in handles:
            handle.remove()
