"""Commands that ask a finished run."""

from __future__ import annotations

from pathlib import Path

import click

from ofa_slim.commands.quiet import quiet
from ofa_slim.export.formats import FORMATS


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--open", "show", is_flag=True, help="Open the page in the browser.")
def report(run: Path, show: bool) -> None:
    """Write the report of the finished RUN (its output_dir) anew: report.html, report.md and report.json."""
    from ofa_slim.job.finished import report_of

    with quiet():
        page = report_of(run)
    click.echo(page)
    if show and click.launch(str(page.resolve())) != 0:
        click.echo(f"no browser could be started; open {page} yourself", err=True)


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("number", type=click.IntRange(0), required=False)
@click.option(
    "--budget", "budgets", multiple=True, metavar="COST=MOST", help="Limits, separated by commas; repeatable."
)
@click.option("--at-least", metavar="METRIC=LEAST", help="The least of a metric: a share, or percent above 1.")
@click.option("--minimise", metavar="COST", help="Make this cost least  [default: make the score best].")
@click.option("--formats", metavar="LIST", help="Formats to write  [default: those of the run].")
@click.option(
    "--finish", is_flag=True, help="Train each alone first, as the recipe's finish_epochs say, with its smaller tables."
)
@click.option("--code", metavar="MODULE:FUNCTION", help="The function that made the run, where one did.")
def pick(
    run: Path,
    number: int | None,
    budgets: tuple[str, ...],
    at_least: str | None,
    minimise: str | None,
    formats: str | None,
    finish: bool,
    code: str | None,
) -> None:
    """Answer other budgets from a finished RUN (its output_dir), and write the chosen sub-networks.

    Costs are those of a search (params, flops, latency_ms, ... and with _ratio), and size_mb. Each --budget is a
    question of its own; without --finish nothing is trained, and no sub-network is scored or measured again. A NUMBER,
    as report.html shows it, names a sub-network instead.
    """
    asked = bool(budgets) or at_least is not None
    if asked == (number is not None) or (minimise is not None and not asked):
        raise click.UsageError("give --budget, --at-least or both, or a NUMBER", click.get_current_context())
    limits = [_numbers("--budget", text) for text in budgets] or [{}]
    least = {} if at_least is None else _numbers("--at-least", at_least)
    names = None if formats is None else [name.strip() for name in formats.split(",")]
    for name in names or ():
        if name not in FORMATS:
            raise click.UsageError(f"--formats: {name!r} is not one of {', '.join(FORMATS)}")
    from ofa_slim.job import pick as picking

    if code is not None:
        if number is not None:
            raise click.UsageError("--code goes with --budget and --at-least, not with a NUMBER")
        if finish:
            raise click.UsageError("--finish is for runs of a recipe; a run of --code was finished by its own function")
        from ofa_slim.job.own_code import pick_own

        with quiet():
            wishes = [picking.Wish(budget, least, minimise) for budget in limits]
            texts = pick_own(code, run, wishes, names)
        for text in texts:
            click.echo(text)
        return
    with quiet():
        job = picking.run_to_pick_from(run)
        names = names or list(job.recipe.formats)
        if finish and not job.recipe.finish_epochs:
            raise click.UsageError(f"--finish: the recipe of {run} has finish_epochs 0, so it says not how to train")
        if number is not None:
            chosen = [picking.numbered(job, number)]
        else:
            chosen = picking.picks(job, [picking.Wish(budget, least, minimise) for budget in limits])
        records = picking.write_picks(job, chosen, names, finish)
    for one, record in zip(chosen, records, strict=True):
        click.echo(picking.described(job, one, record))
    if job.recipe.finish_epochs and not finish:
        click.echo("as the search scored them; --finish trains them alone first, as the run's own choice was")


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
