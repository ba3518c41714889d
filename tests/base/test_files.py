"""Files written aside: whole or not there, whoever else writes them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ofa_slim.base.files import atomic_file


def half_written(file: Path) -> None:
    with atomic_file(file) as aside:
        aside.write_text("half")
        raise KeyboardInterrupt


def test_a_file_is_replaced_when_all_went_well(tmp_path: Path) -> None:
    file = tmp_path / "report.md"
    file.write_text("old")
    with pytest.raises(KeyboardInterrupt):
        half_written(file)
    assert file.read_text() == "old"
    with atomic_file(file) as aside:
        aside.write_text("new")
    assert file.read_text() == "new"
    assert list(tmp_path.iterdir()) == [file]


def test_two_processes_do_not_take_each_others_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "report.md"
    with atomic_file(file) as mine:
        mine.write_text("mine")
        with monkeypatch.context() as other:
            other.setattr(os, "getpid", lambda: 1)
            with atomic_file(file) as theirs:
                theirs.write_text("theirs")
        assert file.read_text() == "theirs"
    assert file.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [file]
