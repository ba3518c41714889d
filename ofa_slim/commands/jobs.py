"""Commands that run a recipe, or write one."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from ofa_slim.base.files import atomic_file
from ofa_slim.commands.quiet import quiet
from ofa_slim.job.data.tables import READERS
from ofa_slim.job.glue import TASKS
from ofa_slim.job.recipe import Recipe, commented, is_code, load_recipe, texts_to_values

Command = TypeVar("Command", bound=Callable[..., Any])


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
    from ofa_slim.job import job

    table = job.compress(recipe, stages, overwrite=overwrite, resume=resume)
    if table is not None:
        click.echo(table)


@click.command("compress")
@recipe_options
@click.option("--model", metavar="DIR", help="The same as --model_name_or_path.")
@click.option("--stages", metavar="LIST", help="Stages to run, separated by commas  [default: all].")
@click.option("--overwrite", is_flag=True, help="Make these stages anew; what is there is replaced once it is done.")
@click.option("--resume/--no-resume", default=True, help="Go on from the checkpoint of a stage that was stopped.")
@click.option("--dry-run", is_flag=True, help="Print the plan, with sizes, steps, time and memory; run nothing.")
def compress(
    recipe: Path | None,
    model: str | None,
    stages: str | None,
    overwrite: bool,
    resume: bool,
    dry_run: bool,
    **keys: str | None,
) -> None:
    """Run a RECIPE: fine-tune, train the supernet, search, write every format, report.

    RECIPE is a YAML file, or a data file (.csv, .jsonl, .parquet, .conll, .txt, ...): then --model names the model, and
    the recipe is the one that `ofa-slim init` proposes. Or it is MODULE:FUNCTION, which makes an ofa_slim.OwnJob of any
    model; then --budget, --output_dir and --formats are the only options.

    Each stage leaves its output in a folder of output_dir and is
    skipped when that is there. Every key of the recipe is an option too, which wins over the file; lists are separated
    by commas.
    """
    keys["model_name_or_path"] = keys["model_name_or_path"] if model is None else model
    nothing = recipe is None and stages is None and all(value is None for value in keys.values())
    if nothing and not dry_run:
        click.echo(click.get_current_context().get_help())
        return
    if recipe is not None and is_code(str(recipe)):
        _run_code(str(recipe), stages, overwrite, dry_run, keys)
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

        with quiet():
            plan = plan_text(settings, names)
        click.echo(plan)
        return
    _run(settings, names, overwrite, resume)


def _run_code(name: str, stages: str | None, overwrite: bool, dry_run: bool, keys: dict[str, str | None]) -> None:
    """Runs a job on what a user's function makes."""
    given = {key: text for key, text in keys.items() if text is not None}
    others = [f"--{key}" for key in given if key not in ("budget", "output_dir", "formats")]
    others += ["--stages"] * (stages is not None) + ["--overwrite"] * overwrite + ["--dry-run"] * dry_run
    if others:
        raise click.UsageError(
            f"{others[0]} does not go with {name}: its OwnJob says how it trains; --budget, --output_dir and --formats "
            "do",
            click.get_current_context(),
        )
    module = name.partition(":")[0]
    values = {"output_dir": f"runs/{module}", "formats": ["inference"], **texts_to_values(given)}
    settings = load_recipe(None, values)
    from ofa_slim.job import job
    from ofa_slim.job.own_code import run_own

    limits = {str(cost): most for cost, most in settings.budget.items()}
    with job.logged(None) as log:
        log.setLevel(logging.INFO)
        table = run_own(name, Path(settings.output_dir), limits, settings.formats)
    click.echo(table)


def _proposal(file: Path, keys: dict[str, str | None]) -> Any:
    """The recipe that fits a data file and a model."""
    given = texts_to_values({key: text for key, text in keys.items() if text is not None})
    model = given.pop("model_name_or_path", None)
    if model is None:
        raise click.UsageError(f"{file} is a data file; give --model DIR too", click.get_current_context())
    from ofa_slim.job.propose import proposed

    with quiet():
        return proposed(file, str(model), given)


@click.command()
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
    from ofa_slim.job.estimate import duration_text

    with quiet():
        duration = duration_text(proposal.recipe)
    with atomic_file(target) as aside:
        aside.write_text(proposal.text(duration), encoding="utf-8")
    click.echo(f"wrote {target}: {duration}; next:")
    click.echo(f"  ofa-slim compress {target}")


@click.command()
@recipe_options
@click.option("--overwrite", is_flag=True, help="Search anew although a result is there.")
def search(recipe: Path | None, overwrite: bool, **keys: str | None) -> None:
    """Search the trained supernet of a RECIPE for the best sub-network within its budget."""
    _run(_recipe(recipe, keys), ["search"], overwrite, True)


@click.command()
@recipe_options
@click.option("--overwrite", is_flag=True, help="Write anew although models are there.")
def export(recipe: Path | None, overwrite: bool, **keys: str | None) -> None:
    """Write the original, uniform and searched sub-networks of a RECIPE in its formats, each proven."""
    _run(_recipe(recipe, keys), ["formats"], overwrite, True)


@click.command()
@click.option("--task", type=click.Choice(list(TASKS)), help="Set this task instead of the default.")
def recipe(task: str | None) -> None:
    """Print a commented recipe with every key and its default."""
    click.echo(commented(task), nl=False)
