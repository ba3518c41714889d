"""Adapts PaddleNLP, whether it is imported before or after the bridge."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import numpy as np

from ofa_slim.base.modes import forwards_kept
from ofa_slim.compat.paddleslim.forwards import accept_head_masks

_COMPRESS = "paddlenlp.trainer.trainer_compress"


def begin() -> None:
    """Adapts the modules that are imported already, and others when they are imported."""
    sys.meta_path.insert(0, _WATCH)
    for name, adapt in _ADAPT.items():
        if name in sys.modules:
            adapt(sys.modules[name])


def end() -> None:
    """Undoes `begin`."""
    sys.meta_path.remove(_WATCH)
    module = sys.modules.get(_COMPRESS)
    if module is not None:
        vars(module).update(_BEFORE)
    _BEFORE.clear()


class _Watch(MetaPathFinder):
    """Calls a function with a module as soon as it has been imported.

    Args:
        adapt: ``{full name: function}``.
    """

    def __init__(self, adapt: Mapping[str, Callable[[ModuleType], None]]) -> None:
        self._adapt = adapt

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The module's own spec, with a loader that then calls the function."""
        if fullname not in self._adapt:
            return None
        others = (finder.find_spec(fullname, path, target) for finder in sys.meta_path if finder is not self)
        spec = next(filter(None, others), None)
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                run(module)
                if self in sys.meta_path:
                    self._adapt[fullname](module)

            vars(spec.loader)["exec_module"] = exec_module
        return spec


def _wrap_forwards(module: ModuleType) -> None:
    """PaddleNLP has put forwards of its own into Paddle's classes."""
    accept_head_masks()


def _make_compress_run(module: ModuleType) -> None:
    """Replaces what fails on current versions of Paddle and NumPy, for `Trainer.compress` only."""
    _BEFORE.update({name: vars(module)[name] for name in ("export_model", "ChunkEvaluator")})
    vars(module).update(
        export_model=_keeping_forwards(module.export_model), ChunkEvaluator=_counting_numbers(module.ChunkEvaluator)
    )


def _keeping_forwards(export: Callable[..., Any]) -> Callable[..., Any]:
    """An export that leaves the model as it was.

    Since Paddle 3 an export leaves the traced forward in the model, which hides its arguments from a later export and
    would write the first width again.
    """

    @functools.wraps(export)
    def export_model(model: Any, *args: Any, **kwargs: Any) -> Any:
        with forwards_kept(model):
            return export(model, *args, **kwargs)

    return export_model


def _counting_numbers(evaluator: type[Any]) -> type[Any]:
    """Counts chunks as plain numbers: NumPy 2.4 does not convert the one-entry arrays that PaddleNLP sums."""

    class ChunkEvaluator(evaluator):
        def update(self, *counts: Any) -> None:
            super().update(*(int(np.sum(count)) for count in counts))

    return ChunkEvaluator


# What `end` restores.
_BEFORE: dict[str, Any] = {}
_ADAPT = {"paddlenlp.transformers.model_outputs": _wrap_forwards, _COMPRESS: _make_compress_run}
_WATCH = _Watch(_ADAPT)
