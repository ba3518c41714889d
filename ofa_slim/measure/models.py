"""How long whole models take, in turns."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from paddle import nn

from ofa_slim.base.checks import check_kind, check_layer
from ofa_slim.base.clock import Latency, Rule, over_loads
from ofa_slim.base.examples import Example, random_example
from ofa_slim.base.threads import threads_kept
from ofa_slim.errors import LatencyError
from ofa_slim.measure.programs import engine_of, written_once


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
        rule: how long to measure.
        call: what each model is given beside its inputs.

    Raises: LatencyError for what is no model, and where the engine cannot run here.
    """
    check_kind(models, Mapping, "models", LatencyError)
    for name, model in models.items():
        check_layer(model, f"model {name!r}", LatencyError)
    save_program = engine_of(engine)
    loads = {
        name: written_once(partial(save_program, model, _example(model, input_shapes, input_dtypes, call)))
        for name, model in models.items()
    }
    with threads_kept():
        return {name: Latency.of(rounds) for name, rounds in over_loads(loads, rule or Rule()).items()}


def _example(model: nn.Layer, shapes: Any, dtypes: Any, call: Mapping[str, Any]) -> Example:
    example = random_example(model, shapes, dtypes, **call)
    return Example(example.args, {**example.kwargs, **call})
