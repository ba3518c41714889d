"""`Supernet`: a model with its search space, and which of its sub-networks runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from paddle import nn

from ofa_slim.base.checks import check_layer
from ofa_slim.base.examples import Example, random_example
from ofa_slim.base.modes import plain_forwards
from ofa_slim.base.unwrap import unwrap
from ofa_slim.errors import ConfigError, ExportError
from ofa_slim.supernet.axis import DEPTH
from ofa_slim.supernet.layers import ElasticLayer, swap_back
from ofa_slim.supernet.paths import layer_at
from ofa_slim.supernet.published import LayerDictCodec, LayerNames
from ofa_slim.supernet.space import SearchSpace
from ofa_slim.supernet.spec import Extent
from ofa_slim.supernet.subnet_config import SubnetConfig

AnyConfig = Mapping[str, Any]

_CACHED_CONFIGS = 4096  # layer sizes that are kept; a search and a training draw the same configs again and again


class Supernet:
    """A model with its search space.

    Args:
        model: a converted model, or one inside `paddle.DataParallel`.
        space: its axes with their choices.
        names: the names of its layers; made from the model where left out.

    Attributes:
        model: the model itself, unwrapped.
        codec: between `SubnetConfig` and the published per-layer dictionaries.
        active: the sub-network that runs.
    """

    def __init__(self, model: nn.Layer, space: SearchSpace, names: LayerNames | None = None) -> None:
        self.model = unwrap(model)
        self.space = space
        self.names = LayerNames(self.model) if names is None else names
        self.codec = LayerDictCodec(self.names, space)
        self.active = space.largest()
        self._layers = {slot.layer: layer_at(self.model, slot.layer) for axis in space.axes for slot in axis.slots}
        self._passes_depth = any(axis.name == DEPTH and not axis.slots for axis in space.axes)
        self._sizes: dict[SubnetConfig, dict[str, dict[str, Extent]]] = {}

    @classmethod
    def of(cls, supernet: Any) -> Supernet:
        """The supernet of an `OFA`, or the supernet itself.

        Raises: ConfigError for anything else.
        """
        found = supernet if isinstance(supernet, cls) else getattr(supernet, "supernet", None)
        if not isinstance(found, cls):
            raise ConfigError(f"this is a {type(supernet).__name__}, not a supernet; give an OFA")
        return found

    def config(self, config: AnyConfig) -> SubnetConfig:
        """The `SubnetConfig` of a config in either form.

        Args:
            config: a `SubnetConfig`, or the published dictionary ``{layer: {"expand_ratio": share}}`` with
                ``"depth"``, layers by attribute path or full name; what is left out runs in full.

        Raises: IllegalSubnetError for names or sizes that this model does not have.
        """
        if isinstance(config, SubnetConfig):
            return self.space.complete(config)
        if not isinstance(config, Mapping):
            raise ConfigError(f"a config is a SubnetConfig or a dictionary, not a {type(config).__name__}")
        return self.codec.to_config(config)

    def layer_sizes(self, config: SubnetConfig) -> Mapping[str, Mapping[str, Extent]]:
        """What of each layer takes part under a config; see `SearchSpace.layer_sizes`."""
        if config not in self._sizes:
            if len(self._sizes) >= _CACHED_CONFIGS:
                self._sizes.clear()
            self._sizes[config] = self.space.layer_sizes(config)
        return self._sizes[config]

    def activate(self, config: SubnetConfig) -> None:
        """Runs a sub-network from now on."""
        for path, sizes in self.layer_sizes(config).items():
            self._layers[path].activate(sizes)
        self.active = config

    @contextmanager
    def using(self, config: SubnetConfig) -> Iterator[None]:
        """Runs a sub-network inside the block, and after it the one of before."""
        before = self.active
        with active_sizes_kept(self.model):
            self.activate(config)
            try:
                yield
            finally:
                self.active = before

    @contextmanager
    def full(self) -> Iterator[None]:
        """Runs the whole model inside the block, and after it the sub-network of before."""
        with full_size(self.model):
            yield

    def forward_arguments(self, config: Mapping[str, int]) -> dict[str, int]:
        """What the model's forward is given beside its inputs: ``depth`` where it cuts its depth itself."""
        return {DEPTH: config[DEPTH]} if self._passes_depth else {}

    def example(self, input_shapes: Any = None, input_dtypes: Any = None) -> Example:
        """Random inputs of one call; see `random_example`.

        Raises: ExportError for shapes that are none, or where they cannot be left out.
        """
        return random_example(self.model, input_shapes, input_dtypes, **self.forward_arguments(self.space.largest()))


def require_plain(model: nn.Layer, caller: str) -> None:
    """Raises `ExportError` for a supernet, naming the function that needs a plain model, and for what is no model."""
    check_layer(model, "model", ExportError)
    if any(isinstance(layer, ElasticLayer) for layer in model.sublayers(include_self=True)):
        raise ExportError(f"{caller} needs a plain model; cut one out of the supernet with OFA.export first")


@contextmanager
def active_sizes_kept(model: nn.Layer) -> Iterator[Sequence[ElasticLayer]]:
    """Whatever is activated inside the block, a model runs as before after it.

    Yields the model's elastic layers, none for a plain model.
    """
    layers = [layer for layer in model.sublayers(include_self=True) if isinstance(layer, ElasticLayer)]
    before = [dict(layer.active_sizes) for layer in layers]
    try:
        yield layers
    finally:
        for layer, sizes in zip(layers, before, strict=True):
            layer.activate({**layer.max_sizes, **sizes})
            layer.active_sizes = sizes


@contextmanager
def full_size(model: nn.Layer) -> Iterator[None]:
    """Runs a supernet in full inside the block, any model layer by layer, so that hooks see it; as before after it."""
    with plain_forwards(model), active_sizes_kept(model) as layers:
        for layer in layers:
            layer.activate(layer.max_sizes)
        yield


def make_plain(model: nn.Layer) -> nn.Layer:
    """Swaps a supernet's layers back to Paddle's own classes, in place, at full size."""
    for layer in model.sublayers(include_self=True):
        swap_back(layer)
    return model
