"""Commands about a model that is there: to be compressed, or written by a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from ofa_slim.commands.quiet import quiet
from ofa_slim.job.glue import TASKS


@click.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--data_dir", required=True, type=click.Path(path_type=Path), help="Folder with the task's data.")
@click.option("--task", type=click.Choice(list(TASKS)), help="The task  [default: the model's own].")
@click.option("--eval_rows", type=click.IntRange(1), help="Score on this many rows only.")
def evaluate(directory: Path, data_dir: Path, task: str | None, eval_rows: int | None) -> None:
    """Score the written model in DIRECTORY (one format's folder) on its task's rows."""
    from ofa_slim.job.tools import evaluated

    with quiet():
        scores = evaluated(directory, data_dir, task, eval_rows)
    click.echo(json.dumps(scores, indent=1))


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--num_classes", type=click.IntRange(1), default=2, show_default=True, help="Size of the head.")
@click.option("--widths", default="1.0,0.75,0.5,0.25", show_default=True, help="Shares that layers may keep.")
@click.option("--width", type=click.FloatRange(0, 1, min_open=True), default=1.0, help="Cost of this width.")
@click.option("--depth", type=click.FloatRange(0, 1, min_open=True), default=1.0, help="Cost of this depth.")
@click.option("--config", type=click.Path(path_type=Path), help="Cost of this JSON file's sizes, {axis: size}.")
@click.option("--length", type=click.IntRange(2), default=64, show_default=True, help="Tokens of one input.")
@click.option("--allow_pickle", is_flag=True, help="Whether MODEL may be a pickle, which runs code when read.")
def inspect(model: Path, **options: Any) -> None:
    """Show what is elastic in the classifier in MODEL, what is not and why, and what a sub-network costs."""
    from ofa_slim.job.tools import inspected

    with quiet():
        text = inspected(model, **options)
    click.echo(text)


@click.command("bench-latency")
@click.argument("directories", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--batch", multiple=True, type=click.IntRange(1), default=(1, 32), show_default=True, help="Rows.")
@click.option("--length", type=click.IntRange(2), default=64, show_default=True, help="Tokens per row.")
def bench_latency(directories: tuple[Path, ...], batch: tuple[int, ...], length: int) -> None:
    """Time written models (folders of one format each) in turns; threads are those of OMP_NUM_THREADS."""
    from ofa_slim.job.tools import timed

    with quiet():
        table = timed(directories, batch, length)
    click.echo(table)


@click.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.argument("texts", nargs=-1)
@click.option("--file", "lines", type=click.Path(path_type=Path), help="Texts, one per line; pairs with a tab.")
def predict(directory: Path, texts: tuple[str, ...], lines: Path | None) -> None:
    """Classify TEXTS with the written model in DIRECTORY; one JSON object per line."""
    if bool(texts) == (lines is not None):
        raise click.UsageError("give either texts or --file", click.get_current_context())
    from ofa_slim.job.tools import classified

    with quiet():
        answers = classified(directory, texts, lines)
    for answer in answers:
        click.echo(json.dumps(answer, ensure_ascii=False))
