"""The best exported model of each sub-network, each in its own folder."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from paddle import nn

from ofa_slim.base.json_files import read_json
from ofa_slim.errors import ConfigError
from ofa_slim.export.subnet_files import save_subnet

METRICS_FILE = "metrics.json"


class Best:
    """The best values so far, by the name of the sub-network.

    A folder contains the model as `save_subnet` writes it, what `beside` adds, and the metrics in `METRICS_FILE`. That
    file is written last: a resumed run ignores folders without it.

    Args:
        folder: contains the folders.
        greater_is_better: whether larger values are better.
        beside: writes everything else that belongs to a model into its folder.
    """

    def __init__(self, folder: Path, greater_is_better: bool, beside: Callable[[Path], None]) -> None:
        self._folder = folder
        self._greater = greater_is_better
        self._beside = beside
        self._values: dict[str, float] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def read(self, names: Mapping[str, Any]) -> None:
        """Reads the values that an earlier part of the same run wrote."""
        for name in names:
            file = self._folder / name / METRICS_FILE
            if file.is_file():
                try:
                    value = read_json(file, infinite=True)["value"]
                    if value is not None:
                        self._values[name] = float(value)
                except (KeyError, TypeError, ValueError) as error:
                    raise ConfigError(f"{file} is damaged ({error}); remove its folder") from error

    def improves(self, name: str, value: float) -> bool:
        """Whether a value is finite and better than the best so far; if so it becomes the best."""
        if not math.isfinite(value):
            return False
        best = self._values.get(name)
        if best is not None and not (value > best if self._greater else value < best):
            return False
        self._values[name] = value
        return True

    def write(
        self,
        name: str,
        model: nn.Layer,
        inputs: Mapping[str, Any] | None,
        metric: str | None,
        metrics: Mapping[str, float],
        step: int,
    ) -> None:
        """Replaces the best model so far, after checking that the new one computes the same on `inputs` when reloaded.

        Raises: ExportError where it cannot be saved and reloaded, or the folder contains something else.
        """
        folder = self._folder / name
        save_subnet(model, folder, inputs)
        self._beside(folder)
        about = {"metric": metric, "value": self._values.get(name), "step": step, "metrics": dict(metrics)}
        (folder / METRICS_FILE).write_text(json.dumps(about, indent=2, default=float) + "\n", encoding="utf-8")
