"""`supernet` and `Convert` as published scripts know them."""

from __future__ import annotations

from typing import Any

from paddle import nn

from ofa_slim.compat.paddleslim.layers import plain_attention, publish
from ofa_slim.supernet.convert import Convert as PlainConvert
from ofa_slim.supernet.convert import supernet as plain_supernet
from ofa_slim.supernet.layers import Block, ElasticLayer, inner_layer, swap_class
from ofa_slim.supernet.layers.elastic import WIDTH_KEYS
from ofa_slim.supernet.spec import computed_weight, spec_of


class supernet(plain_supernet):
    """`ofa_slim.supernet`, whose context gives the published `Convert`."""

    def __enter__(self) -> Convert:
        """The converter of this context."""
        return Convert(self)


class Convert(PlainConvert):
    """`ofa_slim.Convert` whose layers have the published attributes.

    The width of the last layer with weights is never elastic. Layers are converted even where the context has no
    choices for them.

    Args:
        context: the choices.
    """

    def _convert(self, network: nn.Layer) -> None:
        plain_attention(network)
        given = (self.context.kernel_size, self.context.expand_ratio, self.context.channel, self.context.hidden_size)
        if any(choices is not None for choices in given):
            super()._convert(network)
            _keep_last_width(network)
        else:
            _make_elastic(network)
        publish(network)


def weighted_layers(model: nn.Layer) -> dict[str, Any]:
    """The elastic layers with a width of their own by path, in definition order; a `Block` is one such layer."""
    found: dict[str, Any] = {}
    inside: set[int] = set()  # of blocks
    for path, layer in model.named_sublayers(include_self=True):
        if isinstance(layer, Block):
            inside.update(map(id, layer.sublayers()))
            layer = inner_layer(layer)
        elif id(layer) in inside:
            continue
        spec = spec_of(layer)
        if isinstance(layer, ElasticLayer) and spec is not None and spec.width and not spec.follows:
            found[path] = layer
    return found


def _keep_last_width(network: nn.Layer) -> None:
    layers = list(weighted_layers(network).values())
    if layers:
        last = layers[-1]
        last.candidate_config = {key: value for key, value in last.candidate_config.items() if key not in WIDTH_KEYS}


def _make_elastic(network: nn.Layer) -> None:
    for layer in network.sublayers(include_self=True):
        spec = spec_of(layer)
        if spec is not None and spec.params and not isinstance(layer, ElasticLayer) and not computed_weight(layer):
            swap_class(layer)
