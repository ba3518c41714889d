"""The parts of a run: what each kind saves, checks and takes back."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import paddle

from ofa_slim.errors import CheckpointError


class Part(ABC):
    """One part under its name.

    Attributes:
        kind: what it is, as the manifest says it; it must be the same on restore.
    """

    kind: str

    def __init__(self, name: str) -> None:
        self.name = name

    @abstractmethod
    def state(self) -> Any:
        """What to save: what `codec.encode` takes."""

    @abstractmethod
    def problems(self, saved: Any) -> list[str]:
        """Why a saved state does not fit, one text each; changes nothing."""

    @abstractmethod
    def load(self, saved: Any) -> None:
        """Takes a saved state that had no problems."""


class TensorsPart(Part):
    """A layer, or tensors in a list or dictionary."""

    def __init__(self, name: str, kind: str, tensors: Mapping[str, Any]) -> None:
        super().__init__(name)
        self.kind = kind
        for key, value in tensors.items():
            if not isinstance(value, paddle.Tensor):
                raise CheckpointError(f"part {name!r}: {key!r} is a {type(value).__name__}, not a tensor")
        self.tensors: Mapping[str, paddle.Tensor] = tensors

    def state(self) -> Any:
        """The tensors under their keys."""
        return dict(self.tensors)

    def problems(self, saved: Any) -> list[str]:
        """Keys, shapes and types that differ."""
        return unlike(forms(saved), forms(self.tensors))

    def load(self, saved: Any) -> None:
        """Sets the values in place."""
        for key, tensor in self.tensors.items():
            tensor.set_value(saved[key])


class GeneratorPart(Part):
    """A `numpy.random.Generator`. What its `spawn` made is not counted in its state."""

    def __init__(self, name: str, generator: np.random.Generator) -> None:
        super().__init__(name)
        self.generator = generator
        self.kind = f"generator {type(generator.bit_generator).__name__}"

    def state(self) -> Any:
        """The bit generator's."""
        return self.generator.bit_generator.state

    def problems(self, saved: Any) -> list[str]:
        """None: the kind names the bit generator."""
        return []

    def load(self, saved: Any) -> None:
        """Sets it in place."""
        self.generator.bit_generator.state = saved


class StatefulPart(Part):
    """Anything with `state_dict` and `set_state_dict` or `load_state_dict`."""

    def __init__(self, name: str, owner: Any) -> None:
        super().__init__(name)
        self.owner = owner
        self._set: Any = getattr(owner, "set_state_dict", None) or getattr(owner, "load_state_dict", None)
        if not callable(getattr(owner, "state_dict", None)) or not callable(self._set):
            raise CheckpointError(
                f"part {name!r} is a {type(owner).__name__}; a part is a layer, tensors, an optimizer, a numpy "
                "generator or has state_dict() and set_state_dict() or load_state_dict()"
            )
        # Of these the keys say what they are; the keys of other states may come and go.
        self._fixed_keys = isinstance(owner, (paddle.optimizer.lr.LRScheduler, paddle.amp.GradScaler))
        self.kind = type(owner).__name__ if self._fixed_keys else "state"

    def state(self) -> Any:
        """What it says."""
        return self.owner.state_dict()

    def problems(self, saved: Any) -> list[str]:
        """Keys that a scheduler or scaler has not, or has besides."""
        if not self._fixed_keys:
            return []
        return unlike(dict.fromkeys(saved, ""), dict.fromkeys(self.owner.state_dict(), ""))

    def load(self, saved: Any) -> None:
        """Hands it over; a disabled scaler has nothing to take."""
        if saved or not self._fixed_keys:
            with without_false_alarm():
                self._set(saved)


@contextmanager
def without_false_alarm() -> Iterator[None]:
    """Silences what Paddle's `LinearWarmup` says of every state of its own (3.3.1): its keys were compared before."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "There are some unused values in state_dict", UserWarning)
        yield


def unlike(saved: Mapping[str, str], present: Mapping[str, str]) -> list[str]:
    """One text for each name that is on one side only or is something else there.

    Args:
        saved: what is saved under each name.
        present: what the run has there.
    """
    found = [f"missing in the checkpoint: {name}" for name in present if name not in saved]
    found += [f"unexpected in the checkpoint: {name}" for name in saved if name not in present]
    found += [
        f"{name} is {form} in the checkpoint and {present[name]} here"
        for name, form in saved.items()
        if name in present and present[name] != form
    ]
    return found


def forms(tensors: Mapping[str, paddle.Tensor]) -> dict[str, str]:
    """The type and shape of tensors, as errors name them."""
    return {key: f"{str(tensor.dtype).removeprefix('paddle.')} {list(tensor.shape)}" for key, tensor in tensors.items()}
