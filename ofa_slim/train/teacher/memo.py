"""Running a teacher at most once per batch.

The published loop calls the model once per width with the same tensors; the teacher's answer is the same
each time. "The same" means the same tensor objects, holding what they held, and a teacher with the same
weights. Paddle counts no version for `set_value` and optimizer steps (3.0 to 3.3), so contents are compared: on
the device, in one go, with a single truth value read back.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from typing import Any

import paddle
from paddle import nn

from ofa_slim.base.nested import PLAIN
from ofa_slim.train.teacher.engines import Answer, Engine


class Teacher:
    """A frozen model that answers once per batch.

    Args:
        model: any layer; runs in eval mode without gradients and is part of nobody's parameters.
        engine: computes its answers.
    """

    def __init__(self, model: nn.Layer, engine: Engine) -> None:
        self.model = model
        self._engine = engine
        self._batch: _Snapshot | None = None
        self._answer: Answer | None = None

    def __call__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Answer:
        """The answer to a batch; computed if it is not the batch, or the weights, of the last call."""
        self._freeze()
        with paddle.no_grad():
            state = self._state()
            if self._batch is None or self._answer is None or not self._batch.still(args, kwargs, state):
                # Let go of the last batch before the next one is computed.
                self._batch = self._answer = None
                self._answer = self._engine(args, kwargs, lambda: state)
                self._batch = _Snapshot(args, kwargs, state)
        return self._answer

    def answer(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Answer:
        """The answer to a batch, computed whatever it was before and remembered nowhere."""
        self._batch = self._answer = None
        self._freeze()
        return self._engine(args, kwargs, self._state)

    def _freeze(self) -> None:
        if self.model.training:
            self.model.eval()

    def _state(self) -> paddle.Tensor:
        with paddle.no_grad():
            return _fingerprint([*self.model.parameters(), *self.model.buffers()])


class OwnTeacher(Teacher):
    """A model in training that teaches its own sub-networks; its engine sees to the mode that it answers in."""

    def _freeze(self) -> None:
        """Leaves the mode alone."""


class _Snapshot:
    """What a batch and the teacher's weights were."""

    def __init__(self, args: tuple[Any, ...], kwargs: dict[str, Any], state: paddle.Tensor) -> None:
        leaves = list(_leaves((args, kwargs)))
        # Weak, so that a tensor that was freed cannot be mistaken for one made at its place.
        self._tensors = [weakref.ref(leaf) for leaf in leaves if isinstance(leaf, paddle.Tensor)]
        self._contents = [leaf.clone() for leaf in leaves if isinstance(leaf, paddle.Tensor)]
        self._rest = [leaf for leaf in leaves if not isinstance(leaf, paddle.Tensor)]
        self._state = state

    def still(self, args: tuple[Any, ...], kwargs: dict[str, Any], state: paddle.Tensor) -> bool:
        """Whether these are the same objects with the same contents."""
        leaves = list(_leaves((args, kwargs)))
        tensors = [leaf for leaf in leaves if isinstance(leaf, paddle.Tensor)]
        rest = [leaf for leaf in leaves if not isinstance(leaf, paddle.Tensor)]
        if len(tensors) != len(self._tensors) or len(rest) != len(self._rest):
            return False
        if any(ref() is not tensor for ref, tensor in zip(self._tensors, tensors, strict=True)):
            return False
        if not all(
            isinstance(new, PLAIN) and type(new) is type(old) and new == old
            for new, old in zip(rest, self._rest, strict=True)
        ):
            return False
        pairs = [*zip(tensors, self._contents, strict=True), (state, self._state)]
        if any(new.shape != old.shape or new.dtype != old.dtype for new, old in pairs):
            return False
        return bool(paddle.stack([paddle.equal_all(new, old) for new, old in pairs]).all())


def _leaves(value: Any) -> Iterator[Any]:
    """Everything inside nested lists, tuples and dictionaries, and the keys of these."""
    if isinstance(value, Mapping):
        for key in value:
            yield key
            yield from _leaves(value[key])
    elif isinstance(value, (list, tuple)):
        yield len(value)
        for item in value:
            yield from _leaves(item)
    else:
        yield value


def _fingerprint(tensors: list[paddle.Tensor]) -> paddle.Tensor:
    """Numbers that change when the contents do: each row of each tensor, weighted by a ramp and summed."""
    parts = []
    for tensor in tensors:
        rows = tensor.astype("float32") if tensor.dtype != paddle.float32 else tensor
        if rows.ndim > 1:
            rows = rows.reshape([-1, rows.shape[-1]])
            rows = paddle.mv(rows, _ramp(rows.shape[-1], rows))
        parts.append(rows.reshape([-1]))
    return paddle.concat(parts) if parts else paddle.zeros([0])


_RAMPS: dict[tuple[int, str], paddle.Tensor] = {}


def _ramp(size: int, like: paddle.Tensor) -> paddle.Tensor:
    key = (size, str(like.place))
    if key not in _RAMPS:
        _RAMPS[key] = paddle.linspace(1.0, 2.0, size, dtype="float32").to(like.place)
    return _RAMPS[key]
