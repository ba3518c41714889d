"""An optimizer's state by the parameters' keys in their model, not by names that count from process start."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import paddle

from ofa_slim.errors import CheckpointError
from ofa_slim.train.checkpoint.parts import Part, TensorsPart, forms, unlike, without_false_alarm

_MASTER = "master_weights"
_SCHEDULER = "LR_Scheduler"


class ParameterKeys:
    """Which key of which part a parameter's name means, and back.

    Args:
        parts: those that hold the parameters.
    """

    def __init__(self, parts: Iterable[TensorsPart]) -> None:
        self.tensors: dict[str, paddle.Tensor] = {}
        self._keys: dict[str, str] = {}
        self._twice: dict[str, str] = {}
        for part in parts:
            for own, tensor in part.tensors.items():
                key = f"{part.name}/{own}"
                self.tensors[key] = tensor
                first = self._keys.setdefault(tensor.name, key)
                if self.tensors[first] is not tensor:
                    self._twice[tensor.name] = key

    def split(self, name: str, optimizer: str) -> tuple[str, str]:
        """The key of the parameter and the kind of the state, of a name like ``linear_3.w_0_moment1_0``.

        Paddle ends the name with a number that counts how often it was given in the process. Between the
        parameter and the kind stands ``fp32_master_0`` where there is a master weight.

        Raises: CheckpointError where no part holds the parameter, or two hold one of that name.
        """
        ends = [match.start() for match in re.finditer("_", name)]
        # A parameter's name may be the beginning of another's: the longest is meant.
        owner = next((name[:end] for end in reversed(ends) if name[:end] in self._keys), None)
        if owner is None:
            raise CheckpointError(
                f"part {optimizer!r} has the state {name!r}, whose parameter is in none of the parts: give the layer "
                "(or list of tensors) that holds it as a part too"
            )
        kind = re.sub(r"^_(?:fp32_master_\d+_)?|_\d+$", "", name[len(owner) :])
        return self.key(owner, optimizer), kind

    def key(self, name: str, optimizer: str) -> str:
        """The key of a parameter's full name; raises `CheckpointError` where there is none, or more than one."""
        if name in self._twice:
            raise CheckpointError(
                f"part {optimizer!r}: {self._keys[name]} and {self._twice[name]} are two parameters of one name, "
                f"{name!r}"
            )
        if name not in self._keys:
            raise CheckpointError(f"part {optimizer!r} has a master weight of {name!r}, which is in none of the parts")
        return self._keys[name]


class OptimizerPart(Part):
    """A Paddle optimizer."""

    def __init__(self, name: str, optimizer: paddle.optimizer.Optimizer, keys: ParameterKeys) -> None:
        super().__init__(name)
        self.optimizer = optimizer
        self.kind = f"optimizer {type(optimizer).__name__}"
        self._keys = keys

    def state(self) -> Any:
        """Accumulators and master weights by the parameters' keys; the learning rate or its scheduler's state."""
        live = self.optimizer.state_dict()
        scheduler = live.get(_SCHEDULER)
        return {
            "accumulators": self._accumulators(live),
            "master weights": self._masters(live),
            "scheduler": scheduler,
            # Without a scheduler the rate may have been set by hand, and Paddle's own state does not hold it.
            "learning rate": self.optimizer.get_lr() if scheduler is None else None,
        }

    def problems(self, saved: Any) -> list[str]:
        """Parameters that are not the optimizer's, state that is not in the checkpoint, another scheduler."""
        live = self.optimizer.state_dict()
        present, masters = self._accumulators(live), self._masters(live)
        needed = {**saved["accumulators"], **saved["master weights"]}
        unknown = [key for key in needed if key not in self._keys.tensors]
        found = [f"unexpected in the checkpoint: state of {key}, which is in none of the parts" for key in unknown]
        if not unknown:
            fresh = [key for key in needed if key not in present and key not in masters]
            updated = self._updated(fresh)
            found = [
                f"unexpected in the checkpoint: state of {key}, which this optimizer does not update"
                for key in fresh
                if key not in updated
            ]
        extra = [key for key in {**present, **masters} if key not in needed]
        found += [f"missing in the checkpoint: state of {key}; a new optimizer has none" for key in extra]
        schedulers = saved["scheduler"], live.get(_SCHEDULER)
        if (schedulers[0] is None) != (schedulers[1] is None):
            there, here = ("none" if each is None else "one" for each in schedulers)
            found.append(f"learning rate scheduler: {there} in the checkpoint, {here} here")
        elif schedulers[0] is not None:
            found += unlike(dict.fromkeys(schedulers[0], ""), dict.fromkeys(schedulers[1], ""))
        return found

    def prepare(self, saved: Any) -> None:
        """Lets a new optimizer make its accumulators, whose names nobody can know before.

        It takes one step on gradients of zero; the parameters get their values back.

        Raises: CheckpointError where it makes others than were saved: an optimizer of the same class with other
            options. It cannot unmake them: it is no new optimizer any more.
        """
        live = self.optimizer.state_dict()
        present = {**self._accumulators(live), **self._masters(live)}
        absent = [key for key in {**saved["accumulators"], **saved["master weights"]} if key not in present]
        if absent:
            self._step_on_zeros([self._keys.tensors[key] for key in absent])
        live = self.optimizer.state_dict()
        problems = []
        for what, there, here in (
            ("", _flat(saved["accumulators"]), _flat(self._accumulators(live))),
            ("master weight ", saved["master weights"], self._masters(live)),
        ):
            problems += [f"{what}{text}" for text in unlike(forms(there), forms(here))]
        if problems:
            raise CheckpointError(
                f"part {self.name!r} has other options than the one that was saved: {'; '.join(problems)}. "
                "Make a new one before going on"
            )

    def load(self, saved: Any) -> None:
        """Sets all of it."""
        live = self.optimizer.state_dict()
        for key, master in self._masters(live).items():
            master.set_value(saved["master weights"][key])  # in place: its accumulators go by its name
        handed = _Handed()
        for name, value in live.items():
            if name == _MASTER:
                handed[name] = value
            elif name == _SCHEDULER:
                handed[name] = saved["scheduler"]
            else:
                key, kind = self._keys.split(name, self.name)
                handed[name] = saved["accumulators"][key][kind]
        with without_false_alarm():
            self.optimizer.set_state_dict(handed)
        handed.clear()
        if saved["scheduler"] is None:
            self.optimizer.set_lr(saved["learning rate"])

    def _accumulators(self, live: Mapping[str, Any]) -> dict[str, dict[str, paddle.Tensor]]:
        found: dict[str, dict[str, paddle.Tensor]] = {}
        for name, value in live.items():
            if name in (_MASTER, _SCHEDULER):
                continue
            if not isinstance(value, paddle.Tensor):
                raise CheckpointError(
                    f"part {self.name!r}: the state {name!r} of {type(self.optimizer).__name__} is not kept for single "
                    "parameters; such an optimizer cannot be saved"
                )
            key, kind = self._keys.split(name, self.name)
            if kind in found.setdefault(key, {}):
                raise CheckpointError(f"part {self.name!r} has {kind} of {key} twice")
            found[key][kind] = value
        return found

    def _masters(self, live: Mapping[str, Any]) -> dict[str, paddle.Tensor]:
        return {self._keys.key(name, self.name): value for name, value in live.get(_MASTER, {}).items()}

    def _updated(self, keys: Iterable[str]) -> set[str]:
        """Which of some parameters are the optimizer's: `clear_grad` drops the gradients of those alone."""
        tensors = {key: self._keys.tensors[key] for key in keys}
        with self._zero_gradients(tensors.values()):
            self.optimizer.clear_grad(set_to_zero=False)
            return {key for key, tensor in tensors.items() if tensor.grad is None}

    def _step_on_zeros(self, parameters: list[paddle.Tensor]) -> None:
        values = [parameter.clone() for parameter in parameters]
        with self._zero_gradients(parameters):
            self.optimizer.step()
        for parameter, value in zip(parameters, values, strict=True):
            parameter.set_value(value)

    @contextmanager
    def _zero_gradients(self, parameters: Iterable[paddle.Tensor]) -> Iterator[None]:
        """Inside the block these parameters, made trainable, have gradients of zeros and no others have any."""
        parameters = list(parameters)
        before = [
            (tensor, tensor.stop_gradient, None if tensor.grad is None else tensor.grad.clone())
            for tensor in self._keys.tensors.values()
        ]
        try:
            self.optimizer.clear_grad(set_to_zero=False)
            for parameter in parameters:
                parameter.stop_gradient = False
                parameter.grad = paddle.zeros_like(parameter)
            yield
        finally:
            for tensor, stopped, gradient in before:
                if gradient is not None:
                    tensor.grad = gradient
                elif tensor.grad is not None:
                    tensor.clear_gradient(False)  # before 3.3 a gradient cannot be set to None
                tensor.stop_gradient = stopped


class _Handed(dict[str, Any]):
    """A state dict that its taker does not copy.

    Paddle keeps its copy and, while that holds anything, refuses to make accumulators that are not in it (3.3.1): a
    parameter that gets its first gradient behind a restore would end the run. This one is emptied afterwards.
    """

    def copy(self) -> _Handed:
        """Itself."""
        return self


def _flat(accumulators: Mapping[str, Mapping[str, paddle.Tensor]]) -> dict[str, paddle.Tensor]:
    return {f"{kind} of {key}": value for key, kinds in accumulators.items() for kind, value in kinds.items()}
