"""`RunConfig`: the limits of the search space and the schedule; building a model's search space from it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from paddle import nn

from ofa_slim.base.checks import check_whole
from ofa_slim.base.examples import Example
from ofa_slim.errors import ConfigError
from ofa_slim.supernet.axis import DEPTH, HIDDEN, KERNEL, TASKS, WIDTH, Axis
from ofa_slim.supernet.discover import (
    elastic_layers,
    fixed_by_blocks,
    fixed_layers,
    full_space,
    needs_trace,
    traced_space,
    with_candidates,
)
from ofa_slim.supernet.hidden_axis import check_hidden, has_hidden_choices, stream_layers, with_hidden
from ofa_slim.supernet.mending import without_failing_axes
from ofa_slim.supernet.published import LayerDictCodec, LayerNames, choices_from
from ofa_slim.supernet.space import SearchSpace


@dataclass(frozen=True)
class RunConfig:
    """How a supernet is trained.

    Args:
        train_batch_size: examples per batch, for counting epochs.
        n_epochs: per task, the epochs at which its phases end, e.g. ``[[1], [2, 3]]``.
        init_learning_rate: stored for the caller, who makes the optimizer; one number, or one per task.
        total_images: examples per epoch, for counting epochs; without it `OFA.set_epoch` sets the epoch.
        elastic_depth: the choices of depth, in layers.
        dynamic_batch_size: per task, how many sub-networks per batch count as one iteration.
        skip_layers: names of layers that stay at full width.
        same_search_space: lists of names of layers that always get the same width.
        ofa_layers: ``{layer name: {"expand_ratio": choices}}``; a layer with ``{}``, like every layer left out,
            stays at full width.

    Raises: ConfigError for values that are invalid for every model.
    """

    train_batch_size: int | None = None
    n_epochs: Sequence[Sequence[int]] | None = None
    init_learning_rate: Any = None
    total_images: int | None = None
    elastic_depth: Sequence[int] | None = None
    dynamic_batch_size: Sequence[int] | None = None
    skip_layers: Sequence[str] | None = None
    same_search_space: Sequence[Sequence[str]] | None = None
    ofa_layers: Mapping[str, Mapping[str, Sequence[float]]] | None = None

    def __post_init__(self) -> None:
        """Checks what can be checked without a model."""
        for name in ("train_batch_size", "total_images"):
            if getattr(self, name) is not None:
                check_whole(getattr(self, name), name, 1, ConfigError)
        for name in ("elastic_depth", "dynamic_batch_size"):
            for entry in _listed(name, getattr(self, name)):
                check_whole(entry, name, 1, ConfigError)
        bounds = []
        for entry in _listed("n_epochs", self.n_epochs):
            bounds += _listed("n_epochs", entry)
        for bound in bounds:
            check_whole(bound, "n_epochs", 1, ConfigError)
        if sorted(set(bounds)) != bounds:
            raise ConfigError(f"n_epochs {self.n_epochs!r}: the bounds must ascend over all tasks")
        for name in _listed("skip_layers", self.skip_layers):
            if not isinstance(name, str):
                raise ConfigError(f"skip_layers: {name!r} is not the name of a layer")
        for group in _listed("same_search_space", self.same_search_space):
            _listed("same_search_space", group)
        if self.ofa_layers is not None and not isinstance(self.ofa_layers, Mapping):
            raise ConfigError(f"ofa_layers {self.ofa_layers!r} is not a dictionary of layer names")

    @property
    def counts_epochs(self) -> bool:
        """Whether epochs can be counted from the forwards."""
        return None not in (self.n_epochs, self.total_images, self.train_batch_size)

    @property
    def iterations_per_epoch(self) -> int:
        """Batches per epoch, the last incomplete one included."""
        return math.ceil((self.total_images or 1) / (self.train_batch_size or 1))


def build_space(
    model: nn.Layer, names: LayerNames, run: RunConfig, passes_depth: bool, example: Example | None
) -> SearchSpace:
    """The search space of a converted model under a `RunConfig`; the model runs in full when this returns.

    Args:
        model: the supernet, unwrapped.
        names: its layers.
        run: the limits.
        passes_depth: whether the model's forward takes ``depth`` itself.
        example: inputs to trace it with; a model of a known family does not need them.

    Raises: ConvertError for a model that was not converted or cannot be traced; ConfigError for names, depths
        or choices that do not fit it.
    """
    depth = {DEPTH: max(run.elastic_depth)} if passes_depth and run.elastic_depth else {}
    for layer in elastic_layers(model):
        layer.activate(layer.max_sizes)
    traced = example is not None and needs_trace(model)
    space = traced_space(model, example, depth) if example is not None and traced else full_space(model)
    hidden = has_hidden_choices(model)
    if hidden:
        space = with_hidden(model, space, example, depth)
    space = fixed_by_blocks(model, with_candidates(model, space))
    space = limited_space(space, names, run, passes_depth)
    if hidden:
        check_hidden(model, space, example)
    return without_failing_axes(model, space, example) if example is not None and traced else space


def possible_tasks(model: nn.Layer, run: RunConfig) -> tuple[str, ...]:
    """The tasks that the choices of a model's layers allow.

    Raises: ConvertError for a model that was not converted.
    """
    tasks: set[str] = set()
    fixed = fixed_layers(model)
    streams = {id(layer) for layer in stream_layers(model).values()}
    for layer in elastic_layers(model):
        if layer in fixed:
            continue
        for key, choices in layer.candidate_config.items():
            if len(set(choices)) > 1:
                tasks.add(KERNEL if key == KERNEL else HIDDEN if id(layer) in streams else WIDTH)
    if len(set(run.elastic_depth or ())) > 1:
        tasks.add(DEPTH)
    return tuple(task for task in TASKS if task in tasks)


def limited_space(space: SearchSpace, names: LayerNames, run: RunConfig, passes_depth: bool) -> SearchSpace:
    """A model's search space within the limits of a `RunConfig`.

    Args:
        space: every axis with its choices.
        names: the model's layers.
        run: the limits.
        passes_depth: whether the model's forward takes ``depth`` itself.

    Raises: ConfigError for names, depths or choices that do not fit the model.
    """
    space = _with_depth(space, run.elastic_depth, passes_depth)
    dictionaries = LayerDictCodec(names, space)

    def axis_or_fixed(option: str, name: str) -> Axis | None:
        try:
            return dictionaries.axis(name)
        except ConfigError as error:
            raise ConfigError(f"{option}: {error}") from None

    def axis_of(option: str, name: str) -> Axis:
        axis = axis_or_fixed(option, name)
        if axis is None:
            raise ConfigError(f"{option}: the output width of layer {name!r} is fixed")
        return axis

    choices: dict[str, tuple[int, ...]] = {}
    if run.ofa_layers is not None:
        choices = {axis.name: (axis.full,) for axis in space.axes if axis.task != DEPTH}
        for name, candidates in run.ofa_layers.items():
            known = isinstance(candidates, Mapping) and set(candidates) & {"expand_ratio", "channel", KERNEL}
            if not known and candidates != {}:
                raise ConfigError(
                    f"ofa_layers: {name!r} has {candidates!r}, not a dictionary such as {{'expand_ratio': [0.5, 1.0]}}"
                )
            width = axis_or_fixed("ofa_layers", name)  # also checks the name
            if set(candidates) - {KERNEL}:
                axis = width or axis_of("ofa_layers", name)
                slot = dictionaries.slot(name) or axis.slots[0]
                choices[axis.name] = choices_from(axis, slot, candidates) or (axis.full,)
            if KERNEL in candidates:
                kernel = dictionaries.kernel_axis(name)
                if kernel is None:
                    raise ConfigError(f"ofa_layers: the kernel of layer {name!r} is fixed")
                choices[kernel.name] = choices_from(kernel, kernel.slots[0], candidates) or (kernel.full,)
    for name in run.skip_layers or ():
        for skipped in (axis_or_fixed("skip_layers", name), dictionaries.kernel_axis(name)):
            if skipped is not None:
                choices[skipped.name] = (skipped.full,)
    space = space.with_choices(choices)
    for group in run.same_search_space or ():
        joined = list(dict.fromkeys(axis_of("same_search_space", name).name for name in group))
        space = _join(space, joined)
        dictionaries = LayerDictCodec(names, space)
    return space


def _with_depth(space: SearchSpace, depths: Sequence[int] | None, passes_depth: bool) -> SearchSpace:
    if not depths:
        return space
    if passes_depth:
        if any(axis.name == DEPTH for axis in space.axes):
            raise ConfigError("elastic_depth: the model has a stack called 'depth' and a forward that takes depth")
        axis = Axis(DEPTH, max(depths), tuple(depths), task=DEPTH, whole=True)
        stacks = [other for other in space.axes if other.task != DEPTH]
        return space.replaced([*stacks, axis])
    stacks = [axis for axis in space.axes if axis.task == DEPTH]
    if not stacks:
        reasons = [f" ({row.layer}: {row.reason})" for row in space.fixed if row.reason.endswith("take turns")]
        raise ConfigError(
            "elastic_depth: the model has no stack of layers that can be cut, and its forward takes no depth"
            + "".join(reasons)
        )
    for axis in stacks:
        for depth in depths:
            if depth > axis.size:
                raise ConfigError(f"elastic_depth: {depth} is more than the {axis.size} layers of {axis.name!r}")
    return space.with_choices({axis.name: depths for axis in stacks})


def _join(space: SearchSpace, names: Sequence[str]) -> SearchSpace:
    """One axis in place of several that always get the same size."""
    if len(names) < 2:
        return space
    axes = [space[name] for name in names]
    first = axes[0]
    for axis in axes[1:]:
        if axis.size != first.size:
            raise ConfigError(f"same_search_space: {first.name!r} has size {first.size}, {axis.name!r} has {axis.size}")
        if axis.choices != first.choices:
            raise ConfigError(
                f"same_search_space: {first.name!r} has choices {first.choices}, {axis.name!r} {axis.choices}"
            )
    bypasses = [axis.bypasses for axis in axes]
    whole = replace(
        first,
        slots=tuple(slot for axis in axes for slot in axis.slots),
        bypasses=tuple(one for own in bypasses for one in own) if all(bypasses) else (),
    )
    kept = (whole if axis is first else axis for axis in space.axes if axis is first or axis.name not in names)
    return space.replaced(kept)


def _listed(name: str, value: Any) -> list[Any]:
    if value is None:
        return []
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Sequence) or not len(value):
        raise ConfigError(f"{name}: {value!r} is not a list with at least one entry")
    return list(value)
