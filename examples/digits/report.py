"""The table of the corners over all seeds; `report.json` and `report.md`."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import paddle

from digits.training import SeedRun, Settings
from ofa_slim.job.stage_folders import write_json, write_text


def write_report(folder: Path, runs: Sequence[SeedRun], settings: Settings) -> None:
    """Writes both forms of the report, each aside and then renamed."""
    report = {
        "settings": asdict(settings),
        "corners": corners(runs),
        "runs": [asdict(run) for run in runs],
        "environment": {"paddle": paddle.version.full_version, "python": platform.python_version()},
    }
    write_json(folder / "report.json", report)
    chosen = "\n".join(f"- `{name}`: {value}" for name, value in asdict(settings).items())
    took = "\n".join(
        f"- seed {run.seed}: " + ", ".join(f"{name} {seconds:.0f} s" for name, seconds in run.seconds.items())
        for run in runs
    )
    write_text(
        folder / "report.md",
        "# Digits: sub-networks of a supernet against the same networks trained alone\n\n"
        f"{table(runs)}\n\nAccuracy in percent, of the exported models, on the test images; mean over "
        f"{len(runs)} seeds, the difference in points with its standard error.\n\n"
        f"## Time\n\n{took}\n\n## Settings\n\n{chosen}\n",
    )


def corners(runs: Sequence[SeedRun]) -> list[dict[str, Any]]:
    """Means over the seeds, one entry per corner; the standard error is None for a single seed."""
    entries = []
    for scores in zip(*(run.scores for run in runs), strict=True):
        differences = [score.exported - score.alone for score in scores]
        error = float(np.std(differences, ddof=1) / np.sqrt(len(runs))) if len(runs) > 1 else None
        entries.append(
            {
                "corner": scores[0].corner,
                "parameters": scores[0].parameters,
                "supernet": float(np.mean([score.exported for score in scores])),
                "alone": float(np.mean([score.alone for score in scores])),
                "difference": float(np.mean(differences)),
                "standard_error": error,
            }
        )
    return entries


def table(runs: Sequence[SeedRun]) -> str:
    """One row per corner, in Markdown."""
    lines = ["| corner | parameters | from the supernet | alone | difference |", "| --- | ---: | ---: | ---: | ---: |"]
    for entry in corners(runs):
        error = "" if entry["standard_error"] is None else f" ± {entry['standard_error']:.2f}"
        lines.append(
            f"| {entry['corner']} | {entry['parameters']:,} | {entry['supernet']:.2f} | {entry['alone']:.2f} | "
            f"{entry['difference']:+.2f}{error} |"
        )
    return "\n".join(lines)
