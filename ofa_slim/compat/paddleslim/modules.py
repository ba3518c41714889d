"""The published tree of modules, put into `sys.modules` in place of a missing or broken PaddleSlim."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from ofa_slim.compat.paddleslim import conversion, layers, ofa, published_importance, sub_model, utils
from ofa_slim.supernet.run_config import RunConfig

ROOT = "paddleslim"


def failure() -> str | None:
    """Why PaddleSlim's own Once-For-All modules cannot be imported; None where they can."""
    kept = _entries()
    try:
        importlib.import_module(f"{ROOT}.nas.ofa")
    except Exception as error:  # whatever a broken installation raises
        for name in _entries():
            del sys.modules[name]
        sys.modules.update(kept)
        absent = isinstance(error, ModuleNotFoundError) and error.name == ROOT
        return "PaddleSlim is not installed" if absent else f"PaddleSlim cannot be imported ({_first_line(error)})"
    return None


def put() -> dict[str, ModuleType]:
    """Puts the tree into `sys.modules`; returns the modules of those names that it replaces."""
    kept = _entries()
    for name in kept:
        del sys.modules[name]
    sys.modules.update(_tree())
    return kept


def take_out(kept: Mapping[str, ModuleType]) -> None:
    """Removes the tree from `sys.modules` and restores the modules that it replaced."""
    for name in _entries():
        del sys.modules[name]
    sys.modules.update(kept)


def _entries() -> dict[str, ModuleType]:
    return {name: module for name, module in sys.modules.items() if name.partition(".")[0] == ROOT}


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _tree() -> dict[str, ModuleType]:
    """Fresh modules by full name."""
    blocks = {"BaseBlock": layers.BaseBlock, "Block": layers.Block}
    elastic = layers.published_layers()
    general = {name: getattr(utils, name) for name in _UTILS}
    scores = {name: getattr(published_importance, name) for name in _SCORES}
    agreeing = {name: getattr(sub_model, name) for name in ("check_search_space", "broadcast_search_space")}
    of_width = {"dynabert_config": utils.dynabert_config}
    training = {"OFA": ofa.OFA, "RunConfig": RunConfig, "DistillConfig": ofa.DistillConfig}
    converting = {"Convert": conversion.Convert, "supernet": conversion.supernet}
    version = {"get_paddle_version": utils.get_paddle_version, "pd_ver": utils.get_paddle_version()}
    tree = {
        "": _module("", {}),
        "nas": _module("nas", {}),
        "nas.ofa": _module("nas.ofa", {**training, "supernet": conversion.supernet, **of_width, **elastic}),
        "nas.ofa.ofa": _module("nas.ofa.ofa", training, {**blocks, **general, **agreeing}),
        "nas.ofa.get_sub_model": _module("nas.ofa.get_sub_model", agreeing, {"BaseBlock": layers.BaseBlock}),
        "nas.ofa.convert_super": _module("nas.ofa.convert_super", converting, {**blocks, **elastic, **version}),
        "nas.ofa.layers": _module("nas.ofa.layers", elastic, {**blocks, **general}),
        "nas.ofa.layers_base": _module("nas.ofa.layers_base", {**blocks, "counter": layers.counter}),
        "nas.ofa.utils": _module(
            "nas.ofa.utils", {"set_state_dict": utils.set_state_dict, **of_width, **version, **scores}
        ),
        "nas.ofa.utils.utils": _module("nas.ofa.utils.utils", {"set_state_dict": utils.set_state_dict}, general),
        "nas.ofa.utils.special_config": _module("nas.ofa.utils.special_config", of_width),
        "nas.ofa.utils.nlp_utils": _module("nas.ofa.utils.nlp_utils", scores),
    }
    for name, module in tree.items():
        outer, _, last = name.rpartition(".")
        if name and not hasattr(tree[outer], last):
            setattr(tree[outer], last, module)
    return {f"{ROOT}.{name}".rstrip("."): module for name, module in tree.items()}


_UTILS = (
    "get_paddle_version",
    "set_state_dict",
    "build_input",
    "remove_model_fn",
    "compute_start_end",
    "get_same_padding",
    "convert_to_list",
    "search_idx",
)
_SCORES = ("compute_neuron_head_importance", "reorder_head", "reorder_neuron", "reorder_neuron_head")


def _module(name: str, public: Mapping[str, Any], more: Mapping[str, Any] | None = None) -> ModuleType:
    """A module with some names; a star import takes the public ones."""
    full = f"{ROOT}.{name}".rstrip(".")
    module = ModuleType(full, "A stand-in by `ofa_slim.compat.paddleslim`.")
    # As a package, so that importing a missing module below it raises an error that names that module.
    module.__spec__ = ModuleSpec(full, None, origin="ofa_slim.compat.paddleslim", is_package=True)
    module.__path__ = []
    module.__package__ = full
    vars(module).update({**public, **(more or {}), "__all__": list(public)})
    return module
