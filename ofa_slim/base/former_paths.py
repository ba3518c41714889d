"""Public modules under the paths that earlier versions had: ``ofa_slim.cost`` is ``ofa_slim.measure.cost``."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

FORMER = {
    "ofa_slim.checkpoint": "ofa_slim.train.checkpoint",
    "ofa_slim.cost": "ofa_slim.measure.cost",
    "ofa_slim.distill_config": "ofa_slim.train.distill_config",
    "ofa_slim.factorise": "ofa_slim.export.factorise",
    "ofa_slim.formats": "ofa_slim.export.formats",
    "ofa_slim.hidden": "ofa_slim.ordering.hidden",
    "ofa_slim.latency": "ofa_slim.measure",
    "ofa_slim.parallel": "ofa_slim.train.parallel",
    "ofa_slim.pipeline": "ofa_slim.export.formats.pipeline",
    "ofa_slim.run_config": "ofa_slim.supernet.run_config",
    "ofa_slim.static": "ofa_slim.export.static",
    "ofa_slim.storage": "ofa_slim.export.subnet_files",
    "ofa_slim.strategies": "ofa_slim.train.strategies",
    "ofa_slim.teacher": "ofa_slim.train.teacher",
}


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Answers an import of a former path with the module itself, so that its classes exist once."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return importlib.util.spec_from_loader(fullname, self) if fullname in FORMER else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module(FORMER[spec.name])
        self._own_spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._own_spec  # the import system has put the former path there


def register() -> None:
    """Makes the former paths importable; calling it again changes nothing."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())
