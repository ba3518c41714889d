"""Measured times that later runs find again: of the same model's structure, inputs, choices, device and versions."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from hashlib import blake2b
from pathlib import Path
from typing import Any

from ofa_slim.errors import LatencyError
from ofa_slim.measure.block_times import Conditions
from ofa_slim.measure.latency_table import LatencyTable
from ofa_slim.supernet.handle import Supernet

logger = logging.getLogger(__name__)

FOLDER_VARIABLE = "OFA_SLIM_CACHE"
_PROTOCOL = 1  # another number where blocks come to be timed in another way


def table_of(
    supernet: Supernet,
    input_shapes: Any,
    input_dtypes: Any,
    engine: str,
    choices: Mapping[str, Sequence[int]],
    progress: bool,
) -> LatencyTable:
    """The times of a supernet's blocks: those that an earlier run measured, or else measured now and kept.

    They are in the folder that the variable ``OFA_SLIM_CACHE`` names, by default ``~/.cache/ofa_slim``; where it is
    empty nothing is kept. A folder that cannot be written only means that the next run measures again.

    Args:
        supernet: the supernet.
        input_shapes: as in `OFA.export`.
        input_dtypes: likewise.
        engine: as in `LatencyTable.build`.
        choices: likewise.
        progress: likewise.

    Raises: LatencyError as `LatencyTable.build`.
    """
    file = _file(supernet, input_shapes, input_dtypes, engine, choices)
    if file is not None and file.is_file():
        try:
            table = LatencyTable.load(file)
            table.check(supernet, input_shapes, input_dtypes, engine)
        except LatencyError as error:
            logger.info("kept times are not used: %s", error)
        else:
            day = table.about.measured
            logger.info("how long each block takes was measured on %s; delete %s to measure again", day, file)
            return table
    logger.info("measuring how long each block of the model takes")
    table = LatencyTable.build(
        supernet,
        input_shapes=input_shapes,
        input_dtypes=input_dtypes,
        engine=engine,
        choices=choices,
        progress=progress,
    )
    if file is not None:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            table.save(file)
        except OSError as error:
            logger.info("%s: the times cannot be kept for later runs (%s)", file, error.strerror)
    return table


def _file(
    supernet: Supernet, input_shapes: Any, input_dtypes: Any, engine: str, choices: Mapping[str, Sequence[int]]
) -> Path | None:
    named = os.environ.get(FOLDER_VARIABLE, "~/.cache/ofa_slim")
    if not named:
        return None
    try:
        folder = Path(named).expanduser()
    except RuntimeError:  # nobody's home, as in some containers
        return None
    about = asdict(Conditions.here(supernet.model, supernet.example(input_shapes, input_dtypes).tensors, engine))
    del about["measured"]
    key = json.dumps([_PROTOCOL, about, {name: list(sizes) for name, sizes in choices.items()}], sort_keys=True)
    return folder / f"latency-{blake2b(key.encode(), digest_size=12).hexdigest()}.json"
