"""What starts at once: the package itself, and the list of commands."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest

import ofa_slim
from ofa_slim.cli import COMMANDS, cli

HEAVY = ("paddle", "numpy", "pydantic", "paddlenlp", "optuna", "sklearn", "matplotlib", "visualdl", "datasets", "scipy")


@pytest.mark.slow
@pytest.mark.parametrize("code", ["import ofa_slim", "from ofa_slim.cli import main; main(['--help'])"])
def test_nothing_heavy_is_imported(code: str) -> None:
    said = f"import sys\n{code}\nprint([name for name in {HEAVY} if name in sys.modules], file=sys.stderr)"
    found = subprocess.run([sys.executable, "-c", said], capture_output=True, text=True, check=True)
    assert found.stderr.strip() == "[]"


@pytest.mark.slow
@pytest.mark.parametrize(
    "code",
    [
        "import ofa_slim.supernet.space; from ofa_slim import supernet, pipeline; supernet(expand_ratio=[1.0])",
        "import ofa_slim.pipeline; assert callable(ofa_slim.pipeline)",
        "import ofa_slim; ofa_slim.cost.CostModel; ofa_slim.importance.reorder_widths; ofa_slim.parallel.is_writer",
        "from ofa_slim import *; OFA, Convert, strategies",
    ],
)
def test_names_are_what_they_were_in_any_order_of_imports(code: str) -> None:
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_every_public_name_is_found_and_others_are_not() -> None:
    for name in ofa_slim.__all__:
        assert getattr(ofa_slim, name) is not None
        assert name in dir(ofa_slim)
    with pytest.raises(AttributeError, match="no attribute 'convrt'"):
        _ = ofa_slim.convrt


def test_the_list_of_commands_is_theirs() -> None:
    context = click.Context(cli)
    for commands in COMMANDS.values():
        for name in commands:
            command = cli.get_command(context, name)
            assert command is not None
            assert command.name == name
            assert command.help
    assert cli.get_command(context, "compres") is None
