"""The errors that users meet; each also derives from the built-in error a caller would expect."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class OfaSlimError(Exception):
    """Base of every error that ofa_slim raises on purpose."""


class ConvertError(OfaSlimError, ValueError):
    """A model cannot be made elastic as asked."""


class IllegalSubnetError(OfaSlimError, ValueError):
    """A sub-network configuration that the search space does not contain."""


class ConfigError(OfaSlimError, ValueError):
    """A `RunConfig`, `DistillConfig` or task that cannot mean anything for this model."""


class ImportanceError(OfaSlimError, ValueError):
    """Importance cannot be computed, or an order is not a permutation."""


class CalibrationError(OfaSlimError, ValueError):
    """Calibration rows, or a model, that no closed form can be computed from."""


class RecipeError(OfaSlimError, ValueError):
    """A recipe that is not valid; the message names the key."""


class DataError(OfaSlimError, ValueError):
    """A data file that is missing, or not in the format that the task needs."""


class DistillError(OfaSlimError, ValueError):
    """A distillation loss that cannot be formed."""


class StoppedError(OfaSlimError, RuntimeError):
    """A signal stopped a training; `signal` says which."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.signal = number


class ExportError(OfaSlimError, RuntimeError):
    """An exported model that cannot be written, or does not compute what the supernet computes."""


class CheckpointError(OfaSlimError, RuntimeError):
    """A checkpoint that cannot be written, is not sound, or is of another run."""


class ParallelError(OfaSlimError, RuntimeError):
    """Processes that train together and do not agree, or were not joined."""


class MissingPackageError(OfaSlimError, ImportError):
    """A package that is needed for this and is not installed."""


class LatencyError(OfaSlimError, ValueError):
    """Times that cannot be measured, or that hold for another machine, model or input."""


class SearchError(OfaSlimError, ValueError):
    """A search that cannot begin, or that is not the one whose results are there."""


class BudgetError(SearchError):
    """A budget that no sub-network keeps to."""


def nearest(name: str, allowed: Iterable[str]) -> str:
    """A half sentence that names the closest allowed name, or "" where none is close."""
    close = difflib.get_close_matches(name, list(allowed), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""
