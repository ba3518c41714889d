"""Which sizes learn best: those allocated to all blocks or to fewer, each trained for some steps.

What the outputs lose when a part is cut says little about what is lost once the smaller model has trained: without
training six narrow blocks may be better than three wider ones, and after it worse.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from paddle import nn

from ofa_slim.base.files import atomic_file
from ofa_slim.base.json_files import read_json
from ofa_slim.closed_form import Calibration, Curve, allocate, mean_divergence, outputs_of, repair, without_labels
from ofa_slim.closed_form.sub_layers import SubLayer
from ofa_slim.errors import CalibrationError
from ofa_slim.export.cut import export_subnet
from ofa_slim.job.distilling import Finish, finished
from ofa_slim.supernet.handle import Supernet
from ofa_slim.supernet.subnet_config import SubnetConfig

logger = logging.getLogger(__name__)

CHOSEN = "trials.json"
_SHARES = (1.0, 2 / 3, 1 / 2)  # of the blocks
_ROWS = 512  # that refit a candidate, and compare it with the original


def at_each_depth(
    curves: Sequence[Curve], parts: Sequence[SubLayer], cost_of: Callable[[Mapping[str, int]], float], budget: float
) -> list[dict[str, int]]:
    """The allocated sizes of all blocks, of two thirds and of half of them, where whole parts may go.

    Args:
        curves: of every axis that may be cut.
        parts: the sub-layers that they are of.
        cost_of: as in `allocate`.
        budget: likewise.

    Returns: at least the sizes of all blocks; those of fewer where they can be within the budget.

    Raises: CalibrationError where the smallest sizes cost more than the budget.
    """
    found = [allocate(curves, cost_of, budget)]
    blocks = list(dict.fromkeys(part.block for part in parts))
    block_of = {part.axis.name: part.block for part in parts}
    for share in _SHARES[1:]:
        stay = {blocks[round(place)] for place in np.linspace(0, len(blocks) - 1, round(share * len(blocks)))}
        some = [
            curve if block_of[curve.axis] in stay else Curve(curve.axis, curve.sizes[:1], curve.losses[:1])
            for curve in curves
        ]
        if any(curve.sizes == curve.sizes[:1] != (0,) for curve in some):
            continue  # a part that cannot be left out
        try:
            found.append(allocate(some, cost_of, budget))
        except CalibrationError:
            continue
    return [dict(sizes) for sizes in dict.fromkeys(SubnetConfig(sizes) for sizes in found)]


def best_learner(
    whole: Supernet,
    configs: Sequence[SubnetConfig],
    original: nn.Layer,
    calibration: Calibration,
    loader: Iterable[Any],
    finish: Finish,
    folder: Path | None,
) -> SubnetConfig:
    """The config whose network is nearest to the original after `Finish.trial_steps` steps.

    Args:
        whole: the supernet, in order.
        configs: what to choose from.
        original: the teacher.
        calibration: rows that refit each network, and compare it.
        loader: batches that train.
        finish: how; `Finish.trial_steps` is above 0.
        folder: keeps what was chosen, so that the same call goes on with it though the loader shuffles; None for none.

    Raises: CalibrationError where what is kept cannot be read.
    """
    file, asked = None if folder is None else folder / CHOSEN, [dict(config) for config in configs]
    known = None if file is None else _known(file, asked, finish.trial_steps)
    if known is not None:
        return configs[known]
    batches = list(islice(loader, finish.trial_steps))
    rows = calibration.part(_ROWS)
    wanted = outputs_of(original, rows)
    briefly = replace(finish, epochs=max(1, finish.trial_steps // len(batches)))
    found: list[float] = []
    for config in configs:
        small = export_subnet(whole, config)
        repair(small, original, rows)
        finished(small, original, batches, without_labels, briefly, None)
        found.append(mean_divergence(wanted, outputs_of(small, rows), rows))
        logger.info("trial %d of %d: divergence %.4g after training briefly", len(found), len(configs), found[-1])
    chosen = int(np.argmin(found))
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(file) as aside:
            content = {"configs": asked, "steps": finish.trial_steps, "divergences": found, "chosen": chosen}
            aside.write_text(json.dumps(content), encoding="utf-8")
    return configs[chosen]


def _known(file: Path, configs: Sequence[Mapping[str, int]], steps: int) -> int | None:
    """The number that was chosen of these configs by so many steps; None where none was."""
    if not file.is_file():
        return None
    try:
        content = read_json(file)
        if (content["configs"], content["steps"]) != (configs, steps):
            return None
        return range(len(configs))[content["chosen"]]
    except (OSError, KeyError, IndexError, TypeError, ValueError) as error:
        raise CalibrationError(
            f"{file} is damaged ({type(error).__name__}: {error}); delete it and the sizes are tried again"
        ) from error
