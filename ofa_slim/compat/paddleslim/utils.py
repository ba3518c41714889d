"""The published helpers: configs of one width, state dicts, inputs, kernels, schedules."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import paddle
from paddle import nn

import ofa_slim.ofa as plain
from ofa_slim.base.unwrap import unwrap
from ofa_slim.compat.paddleslim.conversion import weighted_layers
from ofa_slim.errors import ConfigError
from ofa_slim.supernet import load_weights
from ofa_slim.supernet.axis import DEPTH
from ofa_slim.supernet.published import LayerDict

logger = logging.getLogger(__name__)

_WRAPPED = "fn"


def dynabert_config(model: plain.OFA, width_mult: float, depth_mult: float = 1.0) -> LayerDict:
    """The per-layer dictionary of one width and depth for the whole model.

    Args:
        model: the supernet.
        width_mult: share of heads and feed-forward neurons, above 0 and at most 1; not necessarily one of the choices.
        depth_mult: share of layers, above 0 and at most 1, rounded to the nearest count.

    Returns: a new dictionary with an entry for every layer with a width, 1.0 where that is fixed; with ``"depth"``, a
        number of layers, where the supernet has elastic depth by `RunConfig` or `depth_mult` is not 1.

    Raises: IllegalSubnetError for a share that the model cannot have.
    """
    found = plain.dynabert_config(model, width_mult, depth_mult)
    config: LayerDict = {path: found.get(path) or {"expand_ratio": 1.0} for path in weighted_layers(unwrap(model))}
    if DEPTH in found and (model.run_config.elastic_depth or depth_mult != 1):
        config[DEPTH] = found[DEPTH]
    return config


def set_state_dict(model: nn.Layer, state_dict: Mapping[str, Any]) -> None:
    """Loads the weights of an original model or of a published supernet into a supernet.

    Args:
        model: the supernet.
        state_dict: ``{key: tensor or array}``, each as large as the model's or smaller; keys may have the ``.fn`` of
            the published library before the last part.

    Raises: ConvertError where a tensor does not fit; then nothing is loaded.
    """
    missing, _ = load_weights.set_state_dict(model, remove_model_fn(model, state_dict))
    for key in missing:
        logger.info("%s is not in state_dict", key)


def remove_model_fn(model: nn.Layer, state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a state dict that a model has, without the ``.fn`` in keys where the model has none."""
    own = model.state_dict()
    found = {}
    for key, value in state_dict.items():
        *path, last = key.split(".")
        short = ".".join([*path[:-1], last]) if path[-1:] == [_WRAPPED] else key
        found[key if key in own else short] = value
    return {key: value for key, value in found.items() if key in own}


def build_input(input_size: Any, dtypes: Any) -> Any:
    """Random inputs of some shapes and dtypes.

    Args:
        input_size: a shape, ``{name: shape}``, or a list of them.
        dtypes: a dtype, or a list of one for each.

    Returns: a tensor, ``{name: tensor}``, or a list of them.
    """
    dtype = dtypes[0] if isinstance(dtypes, (list, tuple)) else dtypes
    if isinstance(input_size, Mapping):
        return {name: paddle.rand(list(shape)).astype(dtype) for name, shape in input_size.items()}
    if all(isinstance(side, int) for side in input_size):
        return paddle.rand(list(input_size)).astype(dtype)
    each = dtypes if isinstance(dtypes, (list, tuple)) else [dtypes] * len(input_size)
    return [build_input(size, of_size) for size, of_size in zip(input_size, each, strict=True)]


def compute_start_end(kernel_size: int, sub_kernel_size: int) -> tuple[int, int]:
    """Start and end of the middle `sub_kernel_size` of `kernel_size` entries.

    Raises: ConfigError where there are fewer.
    """
    start = kernel_size // 2 - sub_kernel_size // 2
    if start < 0 or sub_kernel_size > kernel_size:
        raise ConfigError(f"sub_kernel_size {sub_kernel_size!r} is not between 1 and {kernel_size}")
    return start, start + sub_kernel_size


def get_same_padding(kernel_size: int) -> int:
    """The padding with which a convolution keeps the size of its input.

    Raises: ConfigError for a size that is not an odd whole number.
    """
    if not isinstance(kernel_size, int) or kernel_size % 2 == 0:
        raise ConfigError(f"kernel_size {kernel_size!r} is not an odd whole number")
    return kernel_size // 2


def convert_to_list(value: Any, n: int) -> list[Any]:
    """A list of `n` times the value."""
    return [value] * n


def search_idx(num: int, sorted_nestlist: Sequence[Sequence[int]]) -> tuple[int, int]:
    """The indices, in an ascending nested list, of the first entry of at least `num`, or else of the last entry."""
    for outer, entries in enumerate(sorted_nestlist):
        for inner, entry in enumerate(entries):
            if num <= entry:
                return outer, inner
    return len(sorted_nestlist) - 1, len(sorted_nestlist[-1]) - 1


def get_paddle_version() -> int:
    """200, which the published library returns for every Paddle since 2.0."""
    return 200
