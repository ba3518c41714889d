"""`OFA` and `DistillConfig` as published scripts know them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

from paddle import Tensor, nn
from paddle.static import InputSpec

import ofa_slim.ofa as plain
from ofa_slim.base.examples import Example, random_example
from ofa_slim.base.modes import forward_signature
from ofa_slim.base.unwrap import unwrap
from ofa_slim.compat.paddleslim.conversion import weighted_layers
from ofa_slim.compat.paddleslim.layers import export_attention, plain_attention, publish
from ofa_slim.compat.paddleslim.space import (
    Choices,
    all_choices,
    free_choices,
    key_of_task,
    named,
    present_tasks,
    sampled,
    tokens_of,
)
from ofa_slim.compat.paddleslim.sub_model import broadcast_search_space
from ofa_slim.errors import ConfigError, IllegalSubnetError
from ofa_slim.supernet.axis import DEPTH, KERNEL, WIDTH
from ofa_slim.supernet.discover import fixed_layers
from ofa_slim.supernet.layers.elastic import WIDTH_KEYS
from ofa_slim.supernet.published import LayerNames
from ofa_slim.supernet.run_config import RunConfig, possible_tasks
from ofa_slim.supernet.subnet_config import SubnetConfig
from ofa_slim.train.distill_config import DistillConfig as PlainDistillConfig
from ofa_slim.train.sampling import check_lengths, checked_phase, checked_tasks

logger = logging.getLogger(__name__)

# The order in which the published library lets tasks join.
_ORDER = (KERNEL, DEPTH, WIDTH)


@dataclass(frozen=True, eq=False)
class DistillConfig(PlainDistillConfig):
    """`ofa_slim.DistillConfig` whose teacher runs layer by layer, so that masks in lists and hooks work."""

    teacher_engine: str = "dygraph"


class OFA(plain.OFA):
    """`ofa_slim.OFA` with the published attributes, as lenient with configs as the published class.

    Attributes:
        task, phase: the last arguments of `set_task`.
        token_map: ``{task: {layer: {token: choice}}}``, made by `tokenize`.
        search_cands: the tokens of each of these layers.
    """

    def __init__(
        self,
        model: nn.Layer,
        run_config: RunConfig | None = None,
        distill_config: PlainDistillConfig | None = None,
        elastic_order: Sequence[str] | None = None,
        train_full: bool = False,
        **more: Any,
    ) -> None:
        tied: list[Sequence[str]] = []
        if isinstance(model, nn.Layer):
            publish(unwrap(model))
            run_config, tied = _without_unequal_groups(unwrap(model), run_config or RunConfig())
        super().__init__(model, run_config, distill_config, elastic_order, train_full, **more)
        self.elastic_order = elastic_order
        self.task: str | Sequence[str] | None = None
        self.phase: int | None = None
        self.token_map: dict[str, dict[str, dict[int, float]]] = {}
        self.search_cands: list[list[int]] = []
        self._given: Mapping[str, Any] | None = None
        self._warned: set[str] = set()
        self._tied = tied  # layers of different sizes whose shares must agree

    # What is sampled.

    def _tasks(self, present: Sequence[str]) -> list[str]:
        """The tasks in the order they join, without those that the model has no choices for."""
        given = self._elastic_order
        order = [task for task in _ORDER if task in present]
        if given is not None:
            kept = present_tasks(given, present)
            order = checked_tasks(kept, "elastic_order", present) if kept else []
        check_lengths(self.run_config, order)
        return order

    def set_task(self, task: str | Sequence[str], phase: int | None = None) -> None:
        """Sets by hand what is sampled; tasks that the model has no choices for are ignored."""
        self.task, self.phase = task, phase
        present = self.search_space.tasks() if self._known else possible_tasks(unwrap(self.model), self.run_config)
        kept = present_tasks(named(task), present)
        if kept:
            super().set_task(kept, phase)
            return
        checked_phase(phase)
        self._when_known(lambda: self._found.sampler.set_task([], None))

    def _sample(self) -> SubnetConfig:
        sizes = dict(super()._sample())
        for first, *others in self._tied:
            axis = self.supernet.codec.axis(first)
            for other in map(self.supernet.codec.axis, others):
                if axis is not None and other is not None:
                    sizes[other.name] = other.from_ratio(axis.ratio_of(sizes[axis.name]))
        return self.search_space.complete(sizes)

    def _sample_config(
        self, task: str | Sequence[str] | None, sample_type: str = "random", phase: int | None = None
    ) -> Choices:
        """The per-layer dictionary of a sub-network; see `ofa_slim.compat.paddleslim.space.sampled`."""
        return sampled(self._ofa_layers, task, sample_type, phase, self.rng)

    def tokenize(self) -> list[list[int]]:
        """Numbers the choices of the task that was set; fills `token_map` and `search_cands`.

        Returns: `search_cands`.

        Raises: ConfigError unless exactly one task was set and every elastic layer has choices of it.
        """
        found = tokens_of(self._ofa_layers, all_choices(self._weighted, RunConfig()), self.task)
        self.token_map[named(self.task)[0]] = found
        self.search_cands = [list(tokens) for tokens in found.values()]
        return self.search_cands

    def decode_token(self, token: Sequence[int]) -> Choices:
        """Runs the sub-network of a token, one number of each list in `search_cands`, from now on.

        Returns: ``{layer: choice}`` of the task that was set.

        Raises: ConfigError before `tokenize`; IllegalSubnetError for numbers that are not in `search_cands`.
        """
        found = self.token_map.get(named(self.task)[0]) if self.task else None
        if found is None:
            raise ConfigError("decode_token: call set_task and tokenize first")
        if len(token) != len(found):
            raise IllegalSubnetError(f"token has {len(token)} numbers; there are {len(found)} layers")
        choices, config = self._ofa_layers, {}
        for number, (layer, tokens) in zip(token, found.items(), strict=True):
            if number not in tokens:
                raise IllegalSubnetError(f"token: {number!r} is not one of {list(tokens)}, those of {layer!r}")
            config[layer] = {key_of_task(self.task, choices[layer]): tokens[number]}
        self.set_net_config(config)
        return {layer: next(iter(value.values())) for layer, value in config.items()}

    # The search space.

    def _clear_search_space(self, *inputs: Any, input_spec: Any = None, **kwargs: Any) -> None:
        """Finds which widths must agree by tracing the model; does nothing where that is known.

        Args:
            inputs: the model's inputs: tensors, or dictionaries of them.
            input_spec: in place of inputs, a list with an `InputSpec`, a tensor or a dictionary of these for each.
            kwargs: more inputs, by name.
        """
        model = unwrap(self.model)
        if self._known is not None:
            return
        if input_spec is not None:
            specs = [input_spec] if isinstance(input_spec, (InputSpec, Tensor, Mapping)) else list(input_spec)
            shapes = [_each(spec, lambda one: list(one.shape) if isinstance(one, InputSpec) else one) for spec in specs]
            self._discover(random_example(model, shapes, [_each(spec, lambda one: one.dtype) for spec in specs]))
        elif all(name in forward_signature(model).parameters for name in kwargs):
            self._discover(Example(inputs, kwargs))
        else:
            self._discover(Example((*inputs, *kwargs.values())))

    @property
    def _weighted(self) -> dict[str, Any]:
        """The layers with a width that no `Block` fixes, by name."""
        model = unwrap(self.model)
        fixed = fixed_layers(model)
        return {name: layer for name, layer in weighted_layers(model).items() if layer not in fixed}

    @property
    def _ofa_layers(self) -> Choices:
        """What sampling can choose, ``{layer: {key: choices}}``, and ``"depth"``."""
        listed = all_choices(self._weighted, self.run_config)
        tied = [name for _, *others in self._tied for name in others]
        return listed if self._known is None else free_choices(listed, self.supernet, self.run_config, tied)

    ofa_layers = _ofa_layers

    @property
    def _key2name(self) -> dict[str, str]:
        """The path of each layer, by its key: that of its `Block`, or Paddle's full name."""
        return {self._names.layers[name].key: name for name in self._weighted}

    @property
    def _layers(self) -> Choices:
        """The choices of every layer by its key, and ``"depth"``."""
        listed = all_choices(self._weighted, self.run_config)
        return {self._names.layers[name].key if name != DEPTH else name: found for name, found in listed.items()}

    layers = _layers

    # The teacher.

    @property
    def ofa_teacher_model(self) -> SimpleNamespace | None:
        """An object with the teacher as its `model`; None without a teacher."""
        teacher = None if self.distill_config is None else self.distill_config.teacher_model
        return SimpleNamespace(model=teacher) if isinstance(teacher, nn.Layer) else None

    # Configs.

    @property
    def net_config(self) -> Any:
        """The config that was passed to `set_net_config`; None while every forward samples."""
        return self._given

    @net_config.setter
    def net_config(self, config: Mapping[str, Any] | None) -> None:
        self.set_net_config(config)

    def set_net_config(self, config: Mapping[str, Any] | None) -> None:
        """Runs one sub-network from now on; None returns to sampling.

        Entries of a dictionary for unknown layers and for fixed widths and kernels are ignored with a warning. Where
        the widths of several layers must agree, the entry of the first one counts.
        """
        super().set_net_config(config)
        self._given = config

    def subnet_config(self, config: Mapping[str, Any]) -> SubnetConfig:
        """The `SubnetConfig` of a config in either form, read as `set_net_config` says."""
        if isinstance(config, Mapping) and not isinstance(config, SubnetConfig):
            config = self._legal(config)
        return super().subnet_config(config)

    def _legal(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """The part of a per-layer dictionary that this model can have."""
        dictionaries = self.supernet.codec
        kept: dict[str, Any] = {}
        first: dict[str, str] = {}
        config = {name: dict(value) if isinstance(value, Mapping) else value for name, value in config.items()}
        broadcast_search_space(self._tied, {name: name for group in self._tied for name in group}, config)
        for name, value in config.items():
            if name != DEPTH and not self._is_layer(name):
                self._warn(f"config: no layer is called {name!r}; ignored")
                continue
            if name == DEPTH or not isinstance(value, Mapping):
                kept[name] = value
                continue
            axis, asked = dictionaries.axis(name), dict(value)
            dropped = [] if dictionaries.kernel_axis(name) else [KERNEL]
            if axis is None or first.setdefault(axis.name, name) != name:
                dropped += WIDTH_KEYS
            for key in dropped:
                given = asked.pop(key, None)
                if given not in (None, 1) and (axis is None or key == KERNEL):
                    self._warn(f"config: {key} {given!r} of {name!r} is ignored, as that is fixed")
            kept[name] = asked
        return kept

    def _is_layer(self, name: str) -> bool:
        try:
            self._names.path(name)
        except ConfigError:
            return False
        return True

    def _warn(self, said: str) -> None:
        """Logs a warning the first time."""
        if said not in self._warned:
            self._warned.add(said)
            logger.warning("%s", said)

    def export(self, *args: Any, **kwargs: Any) -> nn.Layer:
        """Cuts a plain model out of the supernet, as `ofa_slim.OFA.export` does.

        The attention layers of the result take their number of heads from their weights: published scripts set that
        number after an export, which then does not cut the heads twice.
        """
        for given in (*args, *kwargs.values()):
            if isinstance(given, nn.Layer):
                plain_attention(given)
        exported = super().export(*args, **kwargs)
        export_attention(exported)
        return exported


def _without_unequal_groups(model: nn.Layer, run: RunConfig) -> tuple[RunConfig, list[Sequence[str]]]:
    """The limits without groups of `same_search_space` whose layers have different sizes, and these groups.

    The library lets layers of one size share an axis. The published one let any layers share an ``expand_ratio``.
    """
    names = LayerNames(model)
    groups = run.same_search_space or []
    widths = [
        {getattr(names.layers[names.path(name)], "max_sizes", {}).get("out") for name in group} for group in groups
    ]
    unequal = [group for group, sizes in zip(groups, widths, strict=True) if len(sizes) > 1]
    if not unequal:
        return run, []
    return replace(run, same_search_space=[group for group in groups if group not in unequal] or None), unequal


def _each(spec: Any, change: Callable[[Any], Any]) -> Any:
    """A spec, or each spec of a dictionary, changed by a function."""
    return {name: change(one) for name, one in spec.items()} if isinstance(spec, Mapping) else change(spec)
