"""`ElasticModel`: which sub-network of a supernet runs, set by hand or sampled by the schedule."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from paddle import nn
from paddle.static import InputSpec

from ofa_slim.base.checks import check_kind, check_layer, check_many
from ofa_slim.base.examples import Example, example_of
from ofa_slim.base.modes import forward_signature
from ofa_slim.base.unwrap import unwrap
from ofa_slim.errors import ConfigError
from ofa_slim.supernet.axis import DEPTH, KERNEL, Axis
from ofa_slim.supernet.discover import needs_trace
from ofa_slim.supernet.handle import AnyConfig, Supernet
from ofa_slim.supernet.published import LayerDict, LayerNames
from ofa_slim.supernet.run_config import RunConfig, build_space, possible_tasks
from ofa_slim.supernet.space import SearchSpace
from ofa_slim.supernet.subnet_config import SubnetConfig
from ofa_slim.train.sampling import Sampler, check_lengths, checked_epoch, checked_phase, checked_tasks
from ofa_slim.train.stem import stem_layers

if TYPE_CHECKING:
    from typing_extensions import Self

logger = logging.getLogger(__name__)


class ElasticModel(nn.Layer):
    """A converted model that always runs as one of its sub-networks.

    The search space of a model of a known family is known at once. That of any other is found by tracing the example,
    or where there is none the first batch; what is set before then takes effect there.

    Args:
        model: a converted model, or one inside `paddle.DataParallel`.
        run_config: see `ofa_slim.OFA`, as for the other arguments.
        elastic_order: the order in which tasks join.
        train_full: always run in full.
        example_inputs: inputs to trace the model with.
        input_spec: in place of them.
    """

    wraps_model = True

    def __init__(
        self,
        model: nn.Layer,
        run_config: RunConfig | None = None,
        elastic_order: Sequence[str] | None = None,
        train_full: bool = False,
        example_inputs: Any = None,
        input_spec: InputSpec | Sequence[InputSpec] | None = None,
    ) -> None:
        super().__init__()
        check_layer(model, "model", ConfigError)
        self.model = model
        self.run_config = RunConfig() if run_config is None else run_config
        check_kind(self.run_config, RunConfig, "run_config", ConfigError)
        self.train_full = train_full
        self.rng = np.random.default_rng(0)
        inner = unwrap(model)
        self._names = LayerNames(inner)
        self._passes_depth = DEPTH in forward_signature(inner).parameters
        self._elastic_order = elastic_order
        self._known: _Known | None = None
        self._deferred: list[Callable[[], None]] = []  # until the search space is known
        self._set: SubnetConfig | None = None
        self._last: SubnetConfig | None = None
        example = example_of(inner, example_inputs, input_spec)
        if example is None and needs_trace(inner):
            self._tasks(possible_tasks(inner, self.run_config))
        else:
            self._discover(example)

    def _discover(self, example: Example | None) -> None:
        """Finds the search space, by tracing the example where the model is of no known family."""
        run = self.run_config
        model = unwrap(self.model)
        space = build_space(model, self._names, run, self._passes_depth, example)
        if not self.train_full and not any(axis.elastic for axis in space.axes):
            logger.warning("nothing in this %s is elastic: %s", type(model).__name__, _reasons(space))
        sampler = Sampler(space, self._tasks(space.tasks()), run)
        self._known = _Known(Supernet(model, space, self._names), sampler, stem_layers(model, space))
        for step in self._deferred:
            step()
        self._deferred.clear()

    def _tasks(self, present: Sequence[str]) -> list[str]:
        """The tasks in the order they join, checked against the lists of `run_config`."""
        given = self._elastic_order
        order = list(present) if given is None else checked_tasks(given, "elastic_order", present)
        check_lengths(self.run_config, order)
        return order

    def _when_known(self, step: Callable[[], None]) -> None:
        """Does something with the search space, now or as soon as it is known."""
        if self._known is None:
            self._deferred.append(step)
        else:
            step()

    @property
    def _found(self) -> _Known:
        if self._known is None:
            raise ConfigError(
                "which widths of this model must agree is not known before its first batch; give OFA(..., "
                "example_inputs=...) to know it now"
            )
        return self._known

    @property
    def supernet(self) -> Supernet:
        """The model with its search space; raises `ConfigError` where that is not known yet."""
        return self._found.supernet

    @property
    def search_space(self) -> SearchSpace:
        """The axes of the model with their choices."""
        return self.supernet.space

    @property
    def layers(self) -> dict[str, dict[str, tuple[float, ...]]]:
        """The choices of every layer that can be elastic, by attribute path, as the dictionaries write them."""
        return {path: _choices(axes) for path, axes in self.supernet.codec.elastic_layers().items()}

    @property
    def ofa_layers(self) -> dict[str, dict[str, tuple[float, ...]]]:
        """The choices of every axis that sampling can change, under the path of its first layer."""
        found: dict[str, dict[str, tuple[float, ...]]] = {}
        seen: set[str] = set()
        for path, axes in self.supernet.codec.elastic_layers().items():
            free = {key: axis for key, axis in axes.items() if axis.elastic and axis.name not in seen}
            seen.update(axis.name for axis in free.values())
            if free:
                found[path] = _choices(free)
        return found

    @property
    def net_config(self) -> SubnetConfig | None:
        """The config that was set; None while every forward samples. Takes what `set_net_config` takes."""
        return self._set

    @net_config.setter
    def net_config(self, config: AnyConfig | None) -> None:
        self.set_net_config(config)

    @property
    def current_config(self) -> LayerDict | None:
        """The per-layer dictionary of the sub-network that the last forward ran; None before the first."""
        return None if self._last is None else self.supernet.codec.from_config(self._last)

    @property
    def get_current_config(self) -> LayerDict | None:
        """The same as `current_config`."""
        return self.current_config

    def subnet_config(self, config: AnyConfig) -> SubnetConfig:
        """The `SubnetConfig` of a config in either form.

        Args:
            config: a `SubnetConfig`, or the published dictionary ``{layer: {"expand_ratio": share}}`` with
                ``"depth"``, layers by attribute path or full name; what is left out runs in full.

        Raises: IllegalSubnetError for names or sizes that this model does not have.
        """
        return self.supernet.config(config)

    def set_net_config(self, config: AnyConfig | None) -> None:
        """Runs one sub-network from now on, listed among the choices or not; None returns to sampling.

        Raises: IllegalSubnetError for a config that this model does not have; nothing changes then. Where the
            search space is not known before the first batch, it is raised there.
        """

        def apply() -> None:
            self._set = None if config is None else self.subnet_config(config)
            self.supernet.activate(self.search_space.largest() if self._set is None else self._set)

        self._when_known(apply)

    @contextmanager
    def subnet(self, config: AnyConfig) -> Iterator[Self]:
        """Runs one sub-network inside the block, through this object or the model itself."""
        before, active = self._set, self.supernet.active
        self.set_net_config(config)
        try:
            yield self
        finally:
            self._set = before
            self.supernet.activate(active)

    def set_epoch(self, epoch: int) -> None:
        """Says which epoch runs, from 0: the schedule of `RunConfig.n_epochs` follows it."""
        checked = checked_epoch(epoch)
        self._when_known(lambda: self._found.sampler.set_epoch(checked))

    def set_task(self, task: str | Sequence[str], phase: int | None = None) -> None:
        """Chooses by hand what is sampled.

        Args:
            task: ``"width"`` (or ``"expand_ratio"``, ``"channel"``), ``"hidden_size"``, ``"depth"``,
                ``"kernel_size"``, or a list; every other task runs in full.
            phase: the last task offers its ``phase + 2`` largest choices; None: all.
        """
        last = checked_phase(phase)
        unknown = self._known is None
        present = possible_tasks(unwrap(self.model), self.run_config) if unknown else self.search_space.tasks()
        tasks = checked_tasks(task, "task", present)
        self._when_known(lambda: self._found.sampler.set_task(tasks, last))

    def _chosen(self, configs: Sequence[AnyConfig] | None) -> list[SubnetConfig]:
        """The sub-networks of a step."""
        if configs is None:
            return [self._set if self._set is not None else self._sample()]
        if isinstance(configs, Mapping):
            raise ConfigError("configs is one config; give a list of them")
        check_many(configs, "configs", "sub-networks", ConfigError)
        chosen = [self.subnet_config(config) for config in configs]
        if not chosen:
            raise ConfigError("configs is empty; give at least one sub-network")
        return chosen

    def _discover_from(self, example: Example) -> None:
        if self._known is None:
            logger.info("the first batch serves as the example that shows which widths must agree")
            self._discover(example)

    def _sample(self) -> SubnetConfig:
        if self.train_full:
            return self.search_space.largest()
        return self._found.sampler.sample(self.rng, self.training)


@dataclass
class _Known:
    """What an `OFA` knows of its model once its search space was found."""

    supernet: Supernet
    sampler: Sampler
    stem: list[nn.Layer]


def _choices(axes: Mapping[str, Axis]) -> dict[str, tuple[float, ...]]:
    return {
        key: axis.choices if key == KERNEL else tuple(map(axis.ratio_of, axis.choices)) for key, axis in axes.items()
    }


def _reasons(space: SearchSpace) -> str:
    """Why nothing in a space is elastic: each reason with the first layer that it is given for."""
    first: dict[str, str] = {}
    for row in space.fixed:
        first.setdefault(row.reason, row.layer)
    for axis in space.axes:
        first.setdefault(axis.fixed_reason or "it has one choice, its full size", axis.name)
    return "; ".join(f"{layer}: {reason}" for reason, layer in first.items()) or "no layer of it can be cut"
