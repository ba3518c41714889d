"""`ElasticLayer`: a layer that runs on parts of its own parameters.

An elastic layer is a subclass of its Paddle layer. Converting swaps a layer's class, so its parameters, hooks and
names stay the same objects; nothing is copied and no framework class is changed.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import paddle
from paddle import nn

from ofa_slim.errors import ConvertError, IllegalSubnetError, nearest
from ofa_slim.supernet.spec import (
    Extent,
    LayerSpec,
    Sizes,
    channels_of,
    length,
    part_of,
    register,
    register_later,
    row_of,
    row_of_class,
)

CandidateConfig = Mapping[str, tuple[float, ...]]

# Attributes that the plain layer does not have; export removes them.
OWN_ATTRIBUTES = ("active_sizes", "max_sizes", "original_sizes", "candidate_config", "fixed_kernel", "one_share")

# The keys of a candidate configuration.
WIDTH_KEYS = ("expand_ratio", "channel")
CANDIDATE_KEYS = ("kernel_size", *WIDTH_KEYS)


class ElasticLayer(nn.Layer):
    """First base of every elastic layer; the second one is the Paddle layer.

    Attributes:
        active_sizes: ``{role: extent}`` of the sub-network that runs now; roles left out run in full, and an
            input left out has the width of the input tensor.
        max_sizes: ``{role: size}`` of the whole layer.
        original_sizes: ``{role: size}`` of the layer that it was made from, before it was grown.
        fixed_kernel: why its kernel is not elastic although kernel sizes were given; "" otherwise.
        one_share: how many outputs an `expand_ratio` of 1 means; 0: its original width.
        candidate_config: the choices that sampling uses, e.g. ``{"expand_ratio": (1.0, 0.5)}``.
    """

    active_sizes: dict[str, Extent]
    max_sizes: dict[str, int]
    original_sizes: dict[str, int]
    fixed_kernel: str
    one_share: int
    candidate_config: dict[str, tuple[float, ...]]
    __signature__: ClassVar[inspect.Signature]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Shows the arguments that are handed on to the Paddle layer in the signature, by name."""
        super().__init_subclass__(**kwargs)
        paddle_layers = [
            base for base in cls.__mro__ if issubclass(base, nn.Layer) and not issubclass(base, ElasticLayer)
        ]
        if paddle_layers[0] is nn.Layer:
            return
        several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        shown = dict(inspect.signature(cls.__init__).parameters)
        named = {name: parameter for name, parameter in shown.items() if parameter.kind not in several}
        if len(named) < len(shown):
            named |= inspect.signature(paddle_layers[0].__init__).parameters
        cls.__signature__ = inspect.Signature([named[name] for name in named if name != "self"])

    def make_elastic(self, candidate_config: CandidateConfig | None = None) -> None:
        """Sets up the state of an elastic layer, at full size."""
        self.active_sizes = {}
        self.max_sizes = row_of(self).full_sizes(self)
        self.original_sizes = dict(self.max_sizes)
        self.fixed_kernel = ""
        self.one_share = 0
        self.candidate_config = dict(candidate_config or {})

    def make_by_hand(self, candidate_config: CandidateConfig | None) -> None:
        """Sets up a hand-written elastic layer, whose width is the largest of its choices.

        Its largest ratio, if above 1, is the full width: (1, 2, 4) of 16 outputs are 4, 8 and 16.
        """
        self.make_elastic(candidate_config)
        largest = max(self.candidate_config.get("expand_ratio", (1,)))
        if largest > 1:
            self.one_share = max(1, math.floor(self.max_sizes["out"] / largest))

    @property
    def share_width(self) -> int:
        """How many outputs an `expand_ratio` of 1 means."""
        return self.one_share or self.original_sizes["out"]

    def activate(self, sizes: Sizes) -> None:
        """Runs from now on with these sizes; roles left out keep theirs."""
        self.active_sizes = {**self.active_sizes, **sizes}

    @property
    def cut(self) -> bool:
        """Whether less than the whole layer runs now."""
        return any(length(extent) < self.max_sizes[role] for role, extent in self.active_sizes.items())

    def part(self, name: str, sizes: Sizes) -> paddle.Tensor | None:
        """The part of parameter `name` at `sizes`, or None where the layer has none."""
        parameter = getattr(self, name)
        if parameter is None:
            return None
        return part_of(parameter, row_of(self).roles(self, name), sizes)

    def active_part(self, name: str) -> paddle.Tensor | None:
        """The part of parameter `name` that takes part now."""
        return self.part(name, {**self.max_sizes, **self.active_sizes})

    def omitted(self, role: str) -> bool:
        """Whether the active size of a role is 0, so that what the layer is part of is left out."""
        return role in self.active_sizes and length(self.active_sizes[role]) == 0

    def drop_state(self) -> None:
        """Removes the attributes that its plain layer does not have."""
        for name in OWN_ATTRIBUTES:
            vars(self).pop(name, None)

    def output_extent(self, expand_ratio: float | None = None, channel: int | None = None) -> Extent | None:
        """The outputs that a call gives, or else the active ones; None for all."""
        full = self.max_sizes["out"]
        if channel is None and expand_ratio is None:
            return self.active_sizes.get("out")
        size = channel if channel is not None else channels_of(expand_ratio or 0.0, self.share_width)
        if not 1 <= size <= full:
            raise IllegalSubnetError(f"{self.full_name()}: output width {size} is not between 1 and {full}")
        return size


class AttributeSized(ElasticLayer):
    """Mixin of elastic layers whose forward reads its sizes from attributes in each call."""

    def activate(self, sizes: Sizes) -> None:
        """Runs from now on with these sizes."""
        super().activate(sizes)
        for role, attribute in row_of(self).sizes.items():
            if role in self.active_sizes:
                setattr(self, attribute, length(self.active_sizes[role]))


class FollowingLayer(ElasticLayer):
    """An elastic layer with the arguments of its Paddle layer, whose width is that of its input."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.make_elastic()

    def followed(self, input: paddle.Tensor) -> Extent:
        """Which channels take part: the active ones, or else as many leading ones as come in."""
        width = input.shape[1 if self._data_format[1] == "C" else -1]
        return self.active_sizes.get("out", width)


def checked_candidates(
    name: str, candidate_config: CandidateConfig | None, keys: Sequence[str]
) -> dict[str, tuple[float, ...]]:
    """The choices of a hand-written layer called `name`, each under one of `keys`.

    Raises: ConvertError for another key, or for values that are not choices of it.
    """
    given = dict(candidate_config or {})
    for key, choices in given.items():
        if key not in keys:
            raise ConvertError(
                f"{name}: candidate_config has key {key!r}, which is not one of {', '.join(keys)}"
                f"{nearest(str(key), keys)}"
            )
        if isinstance(choices, (str, bytes, Mapping)) or not isinstance(choices, Iterable) or not list(choices):
            raise ConvertError(f"{name}: candidate_config has {choices!r} for {key!r}, which is not a list of choices")
        for choice in choices:
            kinds, kind = ((int, float), "number") if key == "expand_ratio" else (int, "whole number")
            if isinstance(choice, bool) or not isinstance(choice, kinds) or choice <= 0:
                raise ConvertError(
                    f"{name}: candidate_config has {choice!r} for {key!r}, which is not a {kind} above 0"
                )
    if set(WIDTH_KEYS) <= given.keys():
        raise ConvertError(f"{name}: candidate_config cannot have both {' and '.join(WIDTH_KEYS)}")
    return {key: tuple(choices) for key, choices in given.items()}


def register_elastic(kind: type[nn.Layer] | str, mixin: type[ElasticLayer], **row: Any) -> None:
    """Adds the row of a layer class, and makes its elastic class.

    Args:
        kind: the class; one of another library by name (``"package.module.Class"``), which is then not imported.
        mixin: first base of the elastic class. `AttributeSized` is enough for layers whose forward reads its sizes
            from attributes.
        row: the fields of its `LayerSpec`.
    """

    def spec(plain: type[nn.Layer]) -> LayerSpec:
        described = {
            "__doc__": f"An elastic `{plain.__module__}.{plain.__name__}`.",
            "__module__": __name__,
            "__reduce_ex__": lambda self, protocol: (_unfilled, (plain,), vars(self)),
        }
        return LayerSpec(plain, type(f"Super{plain.__name__}", (mixin, plain), described), **row)

    if isinstance(kind, str):
        register_later(kind, spec)
    else:
        register(spec(kind))


def _unfilled(plain: type[nn.Layer]) -> nn.Layer:
    """An elastic layer without state, for pickle and copy, which cannot import its class."""
    elastic = row_of_class(plain).elastic
    return elastic.__new__(elastic)


def swap_class(layer: nn.Layer, candidate_config: CandidateConfig | None = None) -> None:
    """Makes a plain layer elastic in place; its parameters, hooks and names stay the same objects."""
    layer.__class__ = row_of(layer).elastic
    layer.make_elastic(candidate_config)


def swap_back(layer: nn.Layer) -> None:
    """Makes an elastic layer plain again, at full size; leaves any other layer alone."""
    if isinstance(layer, ElasticLayer):
        layer.activate(layer.max_sizes)
        layer.drop_state()
        plain: nn.Layer = layer
        plain.__class__ = row_of(layer).plain
