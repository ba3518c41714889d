"""Adapts PaddleNLP, whether it is imported before or after the bridge."""

from __future__ import annotations

import copy
import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from ofa_slim.base.modes import forwards_kept
from ofa_slim.compat.paddleslim.forwards import accept_head_masks
from ofa_slim.errors import ConfigError

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
    for name, wrap in _STAND_INS.items():
        _BEFORE[name] = vars(module)[name]
        vars(module)[name] = wrap(_BEFORE[name])


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


def _checking_arguments(train: Callable[..., Any]) -> Callable[..., Any]:
    """Training that is refused at once where PaddleNLP could not export what it trains."""

    @functools.wraps(train)
    def checked(trainer: Any, ofa_model: Any, model: Any, teacher: Any, batches: Any, *others: Any) -> Any:
        arguments = trainer.args
        _check_widths(teacher, arguments.width_mult_list)
        steps = int(min(len(batches) * arguments.num_train_epochs, arguments.num_training_steps + 1))
        if arguments.save_steps > steps:
            raise ConfigError(
                f"save_steps is {arguments.save_steps}, but training ends after step {steps}: nothing would be "
                "evaluated, so there would be no best model of any width to export"
            )
        return train(trainer, ofa_model, model, teacher, batches, *others)

    return checked


def _check_widths(model: Any, widths: Sequence[float]) -> None:
    """Refuses widths that do not leave a whole number of heads, or which PaddleNLP's rounding misses."""
    for number, layer in enumerate(model.base_model.encoder.layers):
        heads, size = layer.self_attn.num_heads, layer.self_attn.head_dim
        for width in widths:
            left = round(heads * width)
            if left < 1 or abs(heads * width - left) > 1e-6 or int(heads * size * width) != left * size:
                raise ConfigError(
                    f"width_mult_list: {width:g} of the {heads} heads of encoder layer {number} is not a whole number "
                    f"of heads; give a multiple of 1/{heads}"
                )


def _cutting_a_copy(cut: Callable[..., Any]) -> Callable[..., Any]:
    """A cut that leaves the whole model as it is: PaddleNLP cuts each width out of the model it has cut before."""

    @functools.wraps(cut)
    def cut_copy(model: Any, width: float) -> Any:
        return cut(copy.deepcopy(model), width)

    return cut_copy


def _expecting_weights(export: Callable[..., Any]) -> Callable[..., Any]:
    """An export that says why there are no weights of a width."""

    @functools.wraps(export)
    def exported(trainer: Any, width: float) -> Any:
        try:
            return export(trainer, width)
        except (FileNotFoundError, ValueError) as error:
            folder = Path(trainer.args.output_dir) / f"width_mult_{round(width, 2)}"
            if (folder / "model_state.pdparams").exists():
                raise
            raise ConfigError(f"width {width:g} never scored above 0, so PaddleNLP saved no weights of it") from error

    return exported


_STAND_INS: dict[str, Callable[[Any], Any]] = {
    "export_model": _keeping_forwards,
    "ChunkEvaluator": _counting_numbers,
    "_dynabert_training": _checking_arguments,
    "_get_dynabert_model": _cutting_a_copy,
    "_export_dynamic_dynabert_model": _expecting_weights,
}
# What `end` restores.
_BEFORE: dict[str, Any] = {}
_ADAPT = {"paddlenlp.transformers.model_outputs": _wrap_forwards, _COMPRESS: _make_compress_run}
_WATCH = _Watch(_ADAPT)
