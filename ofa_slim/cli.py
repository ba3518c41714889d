"""`ofa-slim`: from a recipe to written models, on the command line.

Exit statuses: 0 done, 1 the job failed, 2 a wrong command line or recipe, 130 interrupted, 128 + n stopped by signal n
(141 where the reader of its output closed the pipe).
Errors are one or two lines on standard error; ``--debug`` adds where they came from.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from ofa_slim.base.files import atomic_file
from ofa_slim.errors import OfaSlimError
from ofa_slim.export.formats import FORMATS
from ofa_slim.job.data.tables import READERS
from ofa_slim.job.glue import TASKS
from ofa_slim.job.recipe import Recipe, RecipeError, commented, load_recipe, texts_to_values
from ofa_slim.train.loop import StoppedError

Command = TypeVar("Command", bound=Callable[..., Any])


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command line; returns the exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    try:
        cli.main(args=[word for word in words if word != "--debug"], prog_name="ofa-slim", standalone_mode=False)
        sys.stdout.flush()  # here, as Python prints a stack trace where this fails at its end
    except BaseException as error:
        # Whoever read the output has seen enough (`ofa-slim recipe | head`); click notes that in its own way.
        if isinstance(error, BrokenPipeError) or type(sys.stdout).__name__.endswith("PacifyFlushWrapper"):
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is left of the output goes nowhere
            return 128 + signal.SIGPIPE
        if debug and not isinstance(error, (SystemExit, click.exceptions.Exit)):
            traceback.print_exc()
        return _status(error)
    return 0


def _status(error: BaseException) -> int:
    """Prints what went wrong; returns the exit status."""
    if isinstance(error, click.exceptions.Exit):
        return int(error.exit_code)
    if isinstance(error, (KeyboardInterrupt, click.Abort)):
        _say("interrupted; what is finished is kept, the same command goes on")
        return 130
    if isinstance(error, click.ClickException):
        context = getattr(error, "ctx", None)
        command = "ofa-slim" if context is None else context.command_path
        _say(f"error: {error.format_message()}", f"try '{command} --help'")
        return 2
    if isinstance(error, RecipeError):
        _say(*(f"error: {line}" for line in str(error).splitlines()))
        return 2
    if isinstance(error, StoppedError):
        _say(str(error))
        return 128 + error.signal
    if isinstance(error, OfaSlimError):
        _say(f"error: {error}")
    elif isinstance(error, OSError):
        _say(f"error: {error.filename or 'input or output'}: {error.strerror or error}")
    elif isinstance(error, Exception):
        _say(f"error: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}")
        _say("this is a bug in ofa-slim or in a library that it calls; --debug shows where")
    else:
        raise error
    return 1


def _say(*lines: str) -> None:
    for line in lines:
        click.echo(line, err=True)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="ofa-slim")
@click.option("--debug", is_flag=True, help="Show where an error came from; allowed anywhere on the line.")
def cli(debug: bool) -> None:
    """Once-For-All compression of fine-tuned models on PaddlePaddle."""


def recipe_options(command: Command) -> Command:
    """Adds the recipe's file and an option for each of its keys."""
    for name, field in reversed(Recipe.model_fields.items()):
        default = "none" if field.default is None else field.default
        option = click.option(f"--{name}", name, metavar="VALUE", help=f"{field.description}  [default: {default}]")
        command = option(command)
    return click.argument("recipe", required=False, type=click.Path(path_type=Path))(command)


def _recipe(path: Path | None, texts: dict[str, str | None]) -> Recipe:
    return load_recipe(
        None if path is None else str(path), texts_to_values({k: v for k, v in texts.items() if v is not None})
    )


def _run(recipe: Recipe, stages: Sequence[str], overwrite: bool, resume: bool) -> None:
    from ofa_slim.job.job import compress, quiet_third_parties

    quiet_third_parties()
    table = compress(recipe, stages, overwrite=overwrite, resume=resume)
    if table is not None:
        click.echo(table)


@cli.command("compress")
@recipe_options
@click.option("--model", metavar="DIR", help="The same as --model_name_or_path.")
@click.option("--stages", metavar="LIST", help="Stages to run, separated by commas  [default: all].")
@click.option("--overwrite", is_flag=True, help="Make these stages anew; what is there is replaced once it is done.")
@click.option("--resume/--no-resume", default=True, help="Go on from the checkpoint of a stage that was stopped.")
@click.option("--dry-run", is_flag=True, help="Print the plan, with sizes, steps, time and memory; run nothing.")
def compress_command(
    recipe: Path | None,
    model: str | None,
    stages: str | None,
    overwrite: bool,
    resume: bool,
    dry_run: bool,
    **keys: str | None,
) -> None:
    """Run a RECIPE: fine-tune, train the supernet, search, write every format, report.

    RECIPE is a YAML file, or a data file (.csv, .tsv, .jsonl, .json, .parquet): then --model names the model, and
    the recipe is the one that `ofa-slim init` proposes. Each stage leaves its output in a folder of output_dir and is
    skipped when that is there. Every key of the recipe is an option too, which wins over the file; lists are separated
    by commas.
    """
    keys["model_name_or_path"] = keys["model_name_or_path"] if model is None else model
    nothing = recipe is None and stages is None and all(value is None for value in keys.values())
    if nothing and not dry_run:
        click.echo(click.get_current_context().get_help())
        return
    if recipe is not None and recipe.suffix.lower() in READERS:
        settings = _proposal(recipe, keys).recipe
    else:
        settings = _recipe(recipe, keys)
    from ofa_slim.job.job import stage_names
    from ofa_slim.job.plan import stages_of

    names = stage_names(",".join(stages_of(settings)) if stages is None else stages)
    if dry_run:
        from ofa_slim.job.estimate import plan_text

        with _quiet():
            plan = plan_text(settings, names)
        click.echo(plan)
        return
    _run(settings, names, overwrite, resume)


def _proposal(file: Path, keys: dict[str, str | None]) -> Any:
    """The recipe that fits a data file and a model."""
    given = texts_to_values({key: text for key, text in keys.items() if text is not None})
    model = given.pop("model_name_or_path", None)
    if model is None:
        raise click.UsageError(f"{file} is a data file; give --model DIR too", click.get_current_context())
    from ofa_slim.job.propose import proposed

    with _quiet():
        return proposed(file, str(model), given)


@cli.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--model", required=True, metavar="DIR", help="Directory of the model to compress.")
@click.option("--task", help="The kind of task  [default: what the labels look like].")
@click.option("--data", metavar="KEY=VALUE,...", help="Columns and other keys of data, such as text=body.")
@click.option("--output", type=click.Path(path_type=Path), help="The recipe  [default: FILE with the ending .yaml].")
def init(file: Path, model: str, task: str | None, data: str | None, output: Path | None) -> None:
    """Write a recipe for the data in FILE and a model, with sizes that fit both and the reason of each."""
    target = file.with_suffix(".yaml") if output is None else output
    if target.exists():
        raise click.UsageError(f"{target} is there already; name another file with --output")
    proposal = _proposal(file, {"model_name_or_path": model, "task": task, "data": data})
    load_recipe(None, proposal.values)
    with atomic_file(target) as aside:
        aside.write_text(proposal.text(), encoding="utf-8")
    click.echo(f"wrote {target}; next:")
    click.echo(f"  ofa-slim compress {target} --dry-run   # how long it will take")
    click.echo(f"  ofa-slim compress {target}")


@cli.command()
@recipe_options
@click.option("--overwrite", is_flag=True, help="Search anew although a result is there.")
def search(recipe: Path | None, overwrite: bool, **keys: str | None) -> None:
    """Search the trained supernet of a RECIPE for the best sub-network within its budget."""
    _run(_recipe(recipe, keys), ["search"], overwrite, True)


@cli.command()
@recipe_options
@click.option("--overwrite", is_flag=True, help="Write anew although models are there.")
def export(recipe: Path | None, overwrite: bool, **keys: str | None) -> None:
    """Write the original, uniform and searched sub-networks of a RECIPE in its formats, each proven."""
    _run(_recipe(recipe, keys), ["formats"], overwrite, True)


@cli.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--open", "show", is_flag=True, help="Open the page in the browser.")
def report(run: Path, show: bool) -> None:
    """Write the report of the finished RUN (its output_dir) anew: report.html, report.md and report.json."""
    from ofa_slim.job.finished import report_of

    with _quiet():
        page = report_of(run)
    click.echo(page)
    if show and click.launch(str(page.resolve())) != 0:
        _say(f"no browser could be started; open {page} yourself")


@cli.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("number", type=click.IntRange(0), required=False)
@click.option(
    "--budget", "budgets", multiple=True, metavar="COST=MOST", help="Limits, separated by commas; repeatable."
)
@click.option("--at-least", metavar="METRIC=LEAST", help="The least of a metric: a share, or percent above 1.")
@click.option("--minimise", metavar="COST", help="Make this cost least  [default: make the score best].")
@click.option("--formats", metavar="LIST", help="Formats to write  [default: those of the run].")
def pick(
    run: Path,
    number: int | None,
    budgets: tuple[str, ...],
    at_least: str | None,
    minimise: str | None,
    formats: str | None,
) -> None:
    """Answer other budgets from a finished RUN (its output_dir), and write the chosen sub-networks.

    Costs are those of a search (params, flops, latency_ms, ... and with _ratio), and size_mb. Each --budget is a
    question of its own; nothing is trained, scored or measured again. A NUMBER, as report.html shows it, names a
    sub-network instead.
    """
    asked = bool(budgets) or at_least is not None
    if asked == (number is not None) or (minimise is not None and not asked):
        raise click.UsageError("give --budget, --at-least or both, or a NUMBER", click.get_current_context())
    limits = [_numbers("--budget", text) for text in budgets] or [{}]
    least = {} if at_least is None else _numbers("--at-least", at_least)
    from ofa_slim.job import pick as picking

    with _quiet():
        job = picking.run_to_pick_from(run)
        names = job.recipe.formats if formats is None else [name.strip() for name in formats.split(",")]
        for name in names:
            if name not in FORMATS:
                raise click.UsageError(f"--formats: {name!r} is not one of {', '.join(FORMATS)}")
        if number is not None:
            chosen = [picking.numbered(job, number)]
        else:
            chosen = picking.picks(job, [picking.Wish(budget, least, minimise) for budget in limits])
        records = picking.write_picks(job, chosen, names)
    for one, record in zip(chosen, records, strict=True):
        click.echo(picking.described(job, one, record))


def _numbers(option: str, text: str) -> dict[str, float]:
    """The numbers of an option such as ``latency_ms=3,size_mb=10``."""
    found = {}
    for part in text.split(","):
        key, _, value = part.partition("=")
        try:
            found[key.strip()] = float(value)
        except ValueError:
            raise click.UsageError(f"{option}: {part!r} is not NAME=NUMBER") from None
        if not 0 < found[key.strip()] < float("inf"):
            raise click.UsageError(f"{option}: {part!r} is not a number above 0")
    return found


@cli.command()
@click.option("--task", type=click.Choice(list(TASKS)), help="Set this task instead of the default.")
def recipe(task: str | None) -> None:
    """Print a commented recipe with every key and its default."""
    click.echo(commented(task), nl=False)


@cli.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--data_dir", required=True, type=click.Path(path_type=Path), help="Folder with the task's data.")
@click.option("--task", type=click.Choice(list(TASKS)), help="The task  [default: the model's own].")
@click.option("--eval_rows", type=click.IntRange(1), help="Score on this many rows only.")
def evaluate(directory: Path, data_dir: Path, task: str | None, eval_rows: int | None) -> None:
    """Score the written model in DIRECTORY (one format's folder) on its task's rows."""
    from ofa_slim.job.tools import evaluated

    with _quiet():
        scores = evaluated(directory, data_dir, task, eval_rows)
    click.echo(json.dumps(scores, indent=1))


@cli.command()
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

    with _quiet():
        text = inspected(model, **options)
    click.echo(text)


@cli.command("bench-latency")
@click.argument("directories", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--batch", multiple=True, type=click.IntRange(1), default=(1, 32), show_default=True, help="Rows.")
@click.option("--length", type=click.IntRange(2), default=64, show_default=True, help="Tokens per row.")
def bench_latency(directories: tuple[Path, ...], batch: tuple[int, ...], length: int) -> None:
    """Time written models (folders of one format each) in turns; threads are those of OMP_NUM_THREADS."""
    from ofa_slim.job.tools import timed

    with _quiet():
        table = timed(directories, batch, length)
    click.echo(table)


@cli.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.argument("texts", nargs=-1)
@click.option("--file", "lines", type=click.Path(path_type=Path), help="Texts, one per line; pairs with a tab.")
def predict(directory: Path, texts: tuple[str, ...], lines: Path | None) -> None:
    """Classify TEXTS with the written model in DIRECTORY; one JSON object per line."""
    if bool(texts) == (lines is not None):
        raise click.UsageError("give either texts or --file", click.get_current_context())
    from ofa_slim.job.tools import classified

    with _quiet():
        answers = classified(directory, texts, lines)
    for answer in answers:
        click.echo(json.dumps(answer, ensure_ascii=False))


def _quiet() -> Any:
    from ofa_slim.job.job import logged, quiet_third_parties

    quiet_third_parties()
    return logged(None)


if __name__ == "__main__":
    sys.exit(main())
