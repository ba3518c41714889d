"""The parts of a run: what each kind saves, checks and restores."""

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
    """One part of a run under its name.

    Attributes:
        kind: its kind as the manifest names it; it must be the same on restore.
    """

    kind: str

    def __init__(self, name: str) -> None:
        self.name = name

    @abstractmethod
    def state(self) -> Any:
        """The state to save, in a form that `codec.encode` takes."""

    @abstractmethod
    def problems(self, saved: Any) -> list[str]:
        """The reasons why a saved state does not fit; changes nothing."""

    @abstractmethod
    def load(self, saved: Any) -> None:
        """Restores a saved state that had no problems."""


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
        """The tensors by key."""
        return dict(self.tensors)

    def problems(self, saved: Any) -> list[str]:
        """Keys, shapes and dtypes that differ."""
        return unlike(forms(saved), forms(self.tensors))

    def load(self, saved: Any) -> None:
        """Sets the values in place."""
        for key, tensor in self.tensors.items():
            tensor.set_value(saved[key])


class GeneratorPart(Part):
    """A `numpy.random.Generator`. Its state does not include generators that its `spawn` made."""

    def __init__(self, name: str, generator: np.random.Generator) -> None:
        super().__init__(name)
        self.generator = generator
        self.kind = f"generator {type(generator.bit_generator).__name__}"

    def state(self) -> Any:
        """The bit generator's state."""
        return self.generator.bit_generator.state

    def problems(self, saved: Any) -> list[str]:
        """Whether a bit generator of the same kind, named by `kind`, takes the state."""
        try:
            type(self.generator.bit_generator)().state = saved
        except (KeyError, OverflowError, TypeError, ValueError) as error:
            return [f"not the state of a generator ({error})"]
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
        # Their classes fix the keys; the keys of other objects' states may change while they run.
        self._fixed_keys = isinstance(owner, (paddle.optimizer.lr.LRScheduler, paddle.amp.GradScaler))
        self.kind = type(owner).__name__ if self._fixed_keys else "state"

    def state(self) -> Any:
        """Its state dict."""
        return self.owner.state_dict()

    def problems(self, saved: Any) -> list[str]:
        """Keys of a scheduler or scaler that are missing or unexpected."""
        if not self._fixed_keys:
            return []
        return unlike(dict.fromkeys(saved, ""), dict.fromkeys(self.owner.state_dict(), ""))

    def load(self, saved: Any) -> None:
        """Sets it; the state of a disabled scaler is empty."""
        if saved or not self._fixed_keys:
            with without_false_alarm():
                self._set(saved)


@contextmanager
def without_false_alarm() -> Iterator[None]:
    """Silences a false warning of Paddle's `LinearWarmup` (3.3.1); the keys were compared before."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "There are some unused values in state_dict", UserWarning)
        yield


def unlike(saved: Mapping[str, str], present: Mapping[str, str]) -> list[str]:
    """One text for each name whose form, such as dtype and shape, is not the same in the checkpoint and the run."""
    texts = [f"missing in the checkpoint: {name}" for name in present if name not in saved]
    texts += [f"unexpected in the checkpoint: {name}" for name in saved if name not in present]
    texts += [
        f"{name} is {form} in the checkpoint and {present[name]} here"
        for name, form in saved.items()
        if name in present and present[name] != form
    ]
    return texts


def forms(tensors: Mapping[str, paddle.Tensor]) -> dict[str, str]:
    """The dtype and shape of tensors, as errors name them."""
    return {key: f"{str(tensor.dtype).removeprefix('paddle.')} {list(tensor.shape)}" for key, tensor in tensors.items()}
