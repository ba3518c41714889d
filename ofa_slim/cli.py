"""`ofa-slim`: from a recipe to written models, on the command line.

Exit statuses: 0 done, 1 the job failed, 2 a wrong command line or recipe, 130 interrupted, 128 + n stopped by signal n
(141 where the reader of its output closed the pipe).
Errors are one or two lines on standard error; ``--debug`` adds where they came from.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import traceback
from collections.abc import Sequence

import click

from ofa_slim.base.quiet import import_paddle_quietly, quiet_third_parties
from ofa_slim.errors import OfaSlimError, RecipeError, StoppedError

# By module of `ofa_slim.commands`, its commands with what the list of commands says of each.
COMMANDS = {
    "jobs": {
        "compress": "Run a recipe: fine-tune, train, search, write, report.",
        "init": "Write a recipe for a data file and a model.",
        "search": "Search the trained supernet of a recipe.",
        "export": "Write the models of a recipe in its formats.",
        "recipe": "Print a recipe with every key and its default.",
    },
    "finished": {
        "report": "Write the report of a finished run anew.",
        "pick": "Answer other budgets from a finished run.",
    },
    "models": {
        "inspect": "Show what is elastic in a model and what it costs.",
        "evaluate": "Score a written model on its task's rows.",
        "predict": "Classify texts with a written model.",
        "bench-latency": "Time written models in turns.",
    },
}
MODULES = {command: module for module, commands in COMMANDS.items() for command in commands}


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


class Commands(click.Group):
    """A group that imports a command where it is used: Paddle takes seconds, and the list of commands needs none."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of the commands, those of a job first."""
        return list(MODULES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of a name; None for an unknown one."""
        if cmd_name not in MODULES:
            return None
        quiet_third_parties()
        import_paddle_quietly()
        module = importlib.import_module(f"ofa_slim.commands.{MODULES[cmd_name]}")
        found: click.Command = getattr(module, cmd_name.replace("-", "_"))
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the list of commands."""
        with formatter.section("Commands"):
            formatter.write_dl([row for commands in COMMANDS.values() for row in commands.items()])


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="ofa-slim")
@click.option("--debug", is_flag=True, help="Show where an error came from; allowed anywhere on the line.")
def cli(debug: bool) -> None:
    """Once-For-All compression of fine-tuned models on PaddlePaddle."""


if __name__ == "__main__":
    sys.exit(main())
