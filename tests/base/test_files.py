"""Files written aside: whole or not there, whoever else writes them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ofa_slim.base.files import atomic_file, atomic_folder


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


def folder_with(folder: Path, text: str) -> None:
    with atomic_folder(folder) as aside:
        (aside / "inside.txt").write_text(text)
        if text == "half":
            raise KeyboardInterrupt


def test_a_folder_is_replaced_when_all_went_well(tmp_path: Path) -> None:
    folder = tmp_path / "deeper" / "model"
    folder_with(folder, "old")
    with pytest.raises(KeyboardInterrupt):
        folder_with(folder, "half")
    assert (folder / "inside.txt").read_text() == "old"
    folder_with(folder, "new")
    assert (folder / "inside.txt").read_text() == "new"
    assert list(folder.parent.iterdir()) == [folder]


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_writes_is_not(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    dead, living = tmp_path / ".model.999999999.partial", tmp_path / f".model.{os.getppid()}.partial"
    other = tmp_path / ".models.999999999.partial"
    for left in (dead, living, other):
        left.mkdir()
    folder_with(folder, "new")
    assert sorted(tmp_path.iterdir()) == sorted([folder, living, other])


def test_a_folder_of_a_process_killed_between_the_renames_comes_back(tmp_path: Path) -> None:
    (tmp_path / ".model.999999999.replaced").mkdir()
    (tmp_path / ".model.999999999.replaced" / "inside.txt").write_text("old")
    with pytest.raises(KeyboardInterrupt):
        folder_with(tmp_path / "model", "half")
    assert (tmp_path / "model" / "inside.txt").read_text() == "old"


def test_a_rename_that_fails_puts_the_old_folder_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, rename = tmp_path / "model", os.rename
    folder_with(folder, "old")

    def failing(old: Path, new: Path) -> None:
        if str(old).endswith(".partial"):
            raise OSError("the disk is gone")
        rename(old, new)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", failing)
        with pytest.raises(OSError, match="the disk is gone"):
            folder_with(folder, "new")
    assert (folder / "inside.txt").read_text() == "old"
    assert list(tmp_path.iterdir()) == [folder]
