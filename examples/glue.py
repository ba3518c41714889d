"""Four GLUE tasks from their recipes: the original beside its sub-networks of width 0.75 and 0.5, as a table.

    python examples/glue.py --data_dir path/to/GLUE

Tasks whose files are not there are left out with a message. What a run has done is kept in its output directory, so the
same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml

from ofa_slim.base.quiet import quiet_third_parties
from ofa_slim.errors import OfaSlimError
from ofa_slim.job.glue import TASKS
from ofa_slim.job.job import compress
from ofa_slim.job.recipe import Recipe, load_recipe
from ofa_slim.job.stage_folders import read_json
from ofa_slim.job.training_stages import RESULTS

ROOT = Path(__file__).resolve().parent.parent
NAMES = {"sst-2": "SST-2", "mrpc": "MRPC", "cola": "CoLA", "sts-b": "STS-B"}
WIDTHS = [1.0, 0.75, 0.5]
STAGES = ("finetune", "importance", "reorder", "train", "evaluate")
# So that the four take no more than an hour on two cores: a part of the larger tasks' rows, one epoch of the supernet.
ROWS = {"sst-2": 4_000, "cola": 4_000, "sts-b": 2_000}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the tasks and prints the table; returns the exit status."""
    options = _options(arguments)
    quiet_third_parties()
    rows = []
    for task in options.tasks:
        if not (options.data_dir / NAMES[task]).is_dir():
            print(f"{NAMES[task]}: left out, {options.data_dir / NAMES[task]} is not there", flush=True)
            continue
        try:
            recipe = _recipe(task, options)
            compress(recipe, STAGES)
        except OfaSlimError as error:
            print(error, file=sys.stderr)
            return 1
        rows.append(_row(recipe))
    if rows:
        print("\n".join(_table(rows)))
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=Path, default=Path(os.environ.get("GLUE_DIR", ROOT / "data/GLUE")))
    parser.add_argument("--model", type=Path, default=ROOT / "data/minilm", help="the pre-trained BERT")
    parser.add_argument("--output_dir", type=Path, default=ROOT / "runs/glue")
    parser.add_argument("--tasks", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="keys of every recipe")
    return parser.parse_args(arguments)


def _recipe(task: str, options: argparse.Namespace) -> Recipe:
    """The task's recipe, at full depth."""
    own = {key: yaml.safe_load(value) for key, _, value in (text.partition("=") for text in options.set)}
    changes: dict[str, object] = {
        "data_dir": str(options.data_dir),
        "model_name_or_path": str(options.model),
        "output_dir": str(options.output_dir / task),
        "widths": WIDTHS,
        "depth_mults": [1.0],
        "width_epochs": 1,
        "depth_epochs": 0,
        "train_rows": ROWS.get(task),
        **own,
    }
    return load_recipe(str(ROOT / f"examples/recipes/{task}.yaml"), changes)


def _row(recipe: Recipe) -> list[str]:
    """Name, metrics, and the scores of the original and of each width."""
    task, folder = TASKS[recipe.task], Path(recipe.output_dir)
    original = read_json(folder / "finetune" / RESULTS)["scores"]
    widths = [entry["scores"] for entry in read_json(folder / "evaluate" / RESULTS)]
    cells = [" / ".join(f"{100 * scores['dev'][name]:.2f}" for name in task.metrics) for scores in (original, *widths)]
    return [NAMES[recipe.task], " / ".join(task.metrics), *cells]


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    head = ["task", "metric", "original", *(f"width {width:g}" for width in WIDTHS)]
    wide = [max(len(row[place]) for row in (head, *rows)) for place in range(len(head))]
    lines = [head, ["-" * width for width in wide], *rows]
    return [f"| {' | '.join(cell.ljust(width) for cell, width in zip(line, wide, strict=True))} |" for line in lines]


if __name__ == "__main__":
    sys.exit(main())
