"""The published form of a search space: choices by layer, samples of them, and their tokens."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from ofa_slim.errors import ConfigError
from ofa_slim.supernet.axis import DEPTH, KERNEL, WIDTH
from ofa_slim.supernet.handle import Supernet
from ofa_slim.supernet.published import choices_from
from ofa_slim.supernet.run_config import RunConfig

Choices = dict[str, Any]

# The keys of a layer's choices, by the task names of `set_task`.
_KEYS = {WIDTH: ("expand_ratio", "channel")}
_TASKS = {"expand_ratio": WIDTH, "channel": WIDTH}


def all_choices(layers: Mapping[str, Any], run: RunConfig) -> Choices:
    """``{layer: {key: choices}}`` and ``"depth"``, before it is known which widths must agree.

    Args:
        layers: the layers with a width that no `Block` fixes, by name.
        run: the limits.
    """
    found: Choices = {name: _sorted(layer.candidate_config) for name, layer in layers.items()}
    for name, given in (run.ofa_layers or {}).items():
        if name in found:
            found[name] = _sorted(given)
    return {**found, **_depth(run)}


def free_choices(listed: Choices, supernet: Supernet, run: RunConfig, tied: Collection[str]) -> Choices:
    """The same once the search space is known: the elastic layers, and of those that must agree the first.

    Args:
        listed: what `all_choices` returns.
        supernet: says what of it can be chosen.
        run: the limits.
        tied: layers that have the width of another one by `same_search_space`.
    """
    codec, found, seen = supernet.codec, Choices(), {axis.name for name in tied if (axis := supernet.codec.axis(name))}
    listed_by_hand = run.ofa_layers or {}
    kept = [name for name, given in listed_by_hand.items() if given == {} and (tied or run.same_search_space)]
    for name, choices in listed.items():
        if name == DEPTH:
            found[name] = choices
            continue
        # Published entries without choices: of the last layer of a converted list that does not make the output, and
        # what scripts with groups of their own list as {}.
        width = codec.axis(name)
        if not choices and (name in kept or (name not in listed_by_hand and width and not width.fixed_reason)):
            found[name] = {}
        for key, values in choices.items():
            axis = codec.kernel_axis(name) if key == KERNEL else codec.axis(name)
            slot = axis.slots[0] if key == KERNEL and axis else codec.slot(name)
            if axis is None or slot is None or not axis.elastic or axis.name in seen:
                continue
            seen.add(axis.name)
            sizes = choices_from(axis, slot, {key: values}) or ()
            legal = [value for value, size in zip(values, sizes, strict=True) if size in axis.choices]
            found.setdefault(name, {})[key] = legal
    return found


def sampled(
    choices: Choices, task: str | Sequence[str] | None, sample_type: str, phase: int | None, rng: np.random.Generator
) -> Choices:
    """A random choice for each layer of the named tasks, and the largest choice for everything else.

    Args:
        choices: ``{layer: {key: choices}}``, and ``"depth"``.
        task: what is sampled: ``"expand_ratio"``, ``"width"``, ``"kernel_size"``, ``"depth"``, or a list.
        sample_type: ``"random"``; or ``"largest"`` or ``"smallest"`` for everything.
        phase: of the last task only the ``phase + 2`` largest choices; None: all.
        rng: the source of randomness.

    Raises: ConfigError for another `sample_type`.
    """
    if sample_type not in ("random", "largest", "smallest"):
        raise ConfigError(f"sample_type {sample_type!r} is not one of random, largest, smallest")
    tasks = [key for name in named(task) for key in _KEYS.get(name, (name,))]
    newest = _KEYS.get(named(task)[-1], (named(task)[-1],)) if tasks else ()

    def one(key: str, listed: Sequence[Any]) -> Any:
        if sample_type == "smallest":
            return listed[0]
        if sample_type == "largest" or key not in tasks:
            return listed[-1]
        offered = listed[-(phase + 2) :] if phase is not None and key in newest else listed
        return offered[int(rng.integers(len(offered)))]

    return {
        name: {key: one(key, listed) for key, listed in found.items()} if isinstance(found, dict) else one(name, found)
        for name, found in choices.items()
    }


def tokens_of(choices: Choices, original: Choices, task: str | Sequence[str] | None) -> dict[str, dict[int, float]]:
    """``{layer: {token: choice}}`` of a task; a token is the index of the choice among all choices of the task.

    Args:
        choices: ``{layer: {key: choices}}`` of the elastic layers.
        original: those that the model was converted with, of all layers, which `RunConfig.ofa_layers` may have limited.
        task: the task.

    Raises: ConfigError unless there is exactly one task and every layer has choices of it.
    """
    if len(named(task)) != 1:
        raise ConfigError(f"tokenize needs one task; set_task was called with {task!r}")
    (name,) = named(task)
    keys = _KEYS.get(name, (name,))
    listed: dict[str, Sequence[float]] = {}
    for layer, found in choices.items():
        if layer == DEPTH or not found:
            continue
        of_task = next((found[key] for key in keys if key in found), None)
        if of_task is None:
            raise ConfigError(f"tokenize: layer {layer!r} has no choices of task {name!r}, only {', '.join(found)}")
        listed[layer] = of_task
    given = [found[key] for found in original.values() if isinstance(found, dict) for key in keys if key in found]
    every = sorted({choice for found in (*given, *listed.values()) for choice in found})
    return {layer: {every.index(choice): choice for choice in found} for layer, found in listed.items()}


def key_of_task(task: str | Sequence[str] | None, found: Mapping[str, Any]) -> str:
    """The key of a task among the choices of a layer."""
    (name,) = named(task)
    return next(key for key in _KEYS.get(name, (name,)) if key in found)


def named(task: str | Sequence[str] | None) -> list[str]:
    """The task names that `set_task` was called with, as a list."""
    return [] if task is None else [task] if isinstance(task, str) else list(task)


def present_tasks(tasks: Sequence[str], present: Sequence[str]) -> list[str]:
    """The tasks that a model has choices for; names that are not tasks stay, for an error later on."""
    return [task for task in tasks if _TASKS.get(task, task) in present or _TASKS.get(task, task) not in _ALL]


_ALL = (KERNEL, WIDTH, DEPTH)


def _depth(run: RunConfig) -> Choices:
    return {DEPTH: sorted(set(run.elastic_depth))} if run.elastic_depth else {}


def _sorted(found: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    return {key: sorted(set(listed)) for key, listed in found.items()}
