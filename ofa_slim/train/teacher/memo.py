"""Runs a teacher at most once per batch.

The published loop calls the model once per width with the same tensors, and the teacher's answer is the same each
time. "The same" means the same tensor objects with unchanged contents, and a teacher with unchanged weights. Paddle
counts no version for `set_value` and optimizer steps (3.0 to 3.3), so contents are compared: on the device, at once,
with a single truth value read back.
"""

from __future__ import annotations

import weakref
from typing import Any

import paddle
from paddle import nn

from ofa_slim.base.nested import PLAIN, walk
from ofa_slim.train.teacher.answer import Answer, Engine


class Teacher:
    """A model that answers once per batch.

    Args:
        model: any layer; it runs without gradients, and its parameters belong to nobody else's.
        engine: computes its answers.
        frozen: whether the model runs in eval mode from now on; a model in training that teaches its own sub-networks
            does not.
    """

    def __init__(self, model: nn.Layer, engine: Engine, frozen: bool = True) -> None:
        self.model = model
        self._engine = engine
        self._frozen = frozen
        self._batch: _Snapshot | None = None
        self._answer: Answer | None = None

    def __call__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Answer:
        """The answer to a batch; the teacher runs unless the batch and the weights are those of the last call."""
        self._freeze()
        state = self._state()
        if self._batch is None or self._answer is None or not self._batch.still(args, kwargs, state):
            self._batch = self._answer = None  # frees the last answer before the next one is computed
            with paddle.no_grad():
                self._answer = self._engine(args, kwargs, lambda: state)
                self._batch = _Snapshot(args, kwargs, state)
        return self._answer

    def answer(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Answer:
        """The answer to a batch; the teacher runs in any case, and the answer is not remembered."""
        self._batch = self._answer = None
        self._freeze()
        return self._engine(args, kwargs, self._state)

    def _freeze(self) -> None:
        if self._frozen and self.model.training:
            self.model.eval()

    def _state(self) -> paddle.Tensor:
        with paddle.no_grad():
            return _fingerprint([*self.model.parameters(), *self.model.buffers()])


class _Snapshot:
    """The state of a batch and of the teacher's weights."""

    def __init__(self, args: tuple[Any, ...], kwargs: dict[str, Any], state: paddle.Tensor) -> None:
        tensors, self._rest = _parted(args, kwargs)
        # Weak, so that a tensor that was freed cannot be mistaken for one made at its place.
        self._tensors = [weakref.ref(tensor) for tensor in tensors]
        self._contents = [tensor.clone() for tensor in tensors]
        self._state = state

    def still(self, args: tuple[Any, ...], kwargs: dict[str, Any], state: paddle.Tensor) -> bool:
        """Whether these are the same objects with the same contents."""
        tensors, rest = _parted(args, kwargs)
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


def _parted(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[list[paddle.Tensor], list[Any]]:
    """The tensors in a call's arguments, and everything else in them."""
    leaves = list(walk((args, kwargs)))
    tensors = [leaf for leaf in leaves if isinstance(leaf, paddle.Tensor)]
    return tensors, [leaf for leaf in leaves if not isinstance(leaf, paddle.Tensor)]


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
