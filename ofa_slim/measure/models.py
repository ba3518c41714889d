"""How long whole models take, in turns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from paddle import nn

from ofa_slim.base.examples import random_example
from ofa_slim.base.threads import threads_kept
from ofa_slim.measure.programs import Called, engine_of
from ofa_slim.measure.timing import Rule, in_turns


@dataclass(frozen=True)
class Latency:
    """The time of one forward, in milliseconds.

    Attributes:
        median: of all runs.
        p95: what 95 of 100 runs do not exceed.
        runs: how many there were.
    """

    median: float
    p95: float
    runs: int


def measure_latency(
    models: Mapping[str, nn.Layer],
    input_shapes: Any = None,
    input_dtypes: Any = None,
    engine: str = "inference",
    rule: Rule | None = None,
    **call: Any,
) -> dict[str, Latency]:
    """Times plain models on this machine; they take turns, so that what else it does meets all of them.

    Args:
        models: exported models by name.
        input_shapes: of one call, as in `OFA.export`.
        input_dtypes: as in `OFA.export`.
        engine: as in `LatencyTable.build`.
        rule: when enough was measured.
        call: what each model is given beside its inputs.

    Raises: LatencyError where the engine cannot run here.
    """
    make = engine_of(engine)
    programs = {}
    for name, model in models.items():
        probe = random_example(model, input_shapes, input_dtypes, **call)
        programs[name] = make(Called(model, probe.args, {**probe.kwargs, **call}))
    with threads_kept():
        seconds = in_turns(programs, rule or Rule())
    return {name: _latency(1000 * taken) for name, taken in seconds.items()}


def _latency(milliseconds: np.ndarray) -> Latency:
    return Latency(float(np.median(milliseconds)), float(np.percentile(milliseconds, 95)), len(milliseconds))
