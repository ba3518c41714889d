"""A cache whose files were cut off or damaged, or whose user was killed, gives right answers or none."""

from __future__ import annotations

import gc
import subprocess
import sys
from pathlib import Path
from typing import Any

import paddle
import pytest

from ofa_slim.errors import ConfigError
from ofa_slim.train.teacher.store import ENTRY_SIZE, LAYOUT_FILE, LOCK_FILE, _File
from teacher_caches import Cached, bits, full, pooled, words


@pytest.fixture
def written(tmp_path: Path) -> tuple[Path, list[paddle.Tensor]]:
    """A cache with four batches in it."""
    cached = Cached(tmp_path / "whole", words())
    data = [full(length=length, seed=length)[0] for length in (3, 7, 4, 5)]
    for ids in data:
        cached(ids)
    cached.engine.close()
    return tmp_path / "whole", data


def check(folder: Path, data: list[paddle.Tensor], most_known: int) -> int:
    """The answers from a damaged cache are right, and so are those from what it is afterwards; returns the hits."""
    cached = Cached(folder, words())
    hits = []
    for _ in range(2):
        cached.engine.hits = 0
        for ids in data:
            found = cached(ids)
            assert bits(found.output) == bits(cached.model(ids))
            assert bits(found.hidden["embed"]) == bits(cached.model.embed(ids))
        hits.append(cached.engine.hits)
        cached.engine.close()
    assert hits[0] <= most_known
    assert hits[1] == 12
    return hits[0]


@pytest.mark.parametrize("name", ["index.bin", "field-0.bin", "field-1.bin"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.37, 0.5, 0.99])
def test_a_file_that_was_cut_off_anywhere_loses_rows_and_nothing_else(written: Any, name: str, share: float) -> None:
    folder, data = written
    (inside,) = folder.iterdir()
    file = inside / name
    packed = file.read_bytes()
    kept = int(len(packed) * share)
    file.write_bytes(packed[:kept])
    hits = check(folder, data, most_known=11)
    if name == "index.bin":
        assert hits == kept // ENTRY_SIZE


@pytest.mark.parametrize("name", ["index.bin", "field-0.bin", "field-1.bin"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 0.999])
def test_a_flipped_byte_loses_one_row(written: Any, name: str, share: float, caplog: Any) -> None:
    folder, data = written
    (inside,) = folder.iterdir()
    file = inside / name
    packed = bytearray(file.read_bytes())
    packed[int(len(packed) * share)] ^= 16
    file.write_bytes(bytes(packed))
    assert check(folder, data, most_known=11) == 11
    assert "rows were damaged" in caplog.text


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("at", [0, 1, 2])
@pytest.mark.parametrize("first", [True, False])
def test_a_writer_killed_at_any_point_leaves_a_sound_cache(
    written: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int, share: float, first: bool
) -> None:
    folder, data = written
    folder = tmp_path / "new" if first else folder
    whole, writes = _File.write, []

    def killed(file: _File, offset: int, packed: bytes) -> None:
        writes.append(file)
        last = len(writes) == at + 1
        whole(file, offset, packed[: int(len(packed) * share)] if last else packed)
        if last:
            raise KeyboardInterrupt

    cached, more = Cached(folder, words()), full(length=6, seed=9)[0]
    with monkeypatch.context() as patched:
        patched.setattr(_File, "write", killed)
        with pytest.raises(KeyboardInterrupt):
            cached(more)
    cached.engine.close()
    resumed = Cached(folder, words())
    found = resumed(more)
    assert bits(found.output) == bits(resumed.model(more))
    assert bits(found.hidden["embed"]) == bits(resumed.model.embed(more))
    # The entries come last: of the batch only those that are whole count.
    assert resumed.engine.hits == (int(3 * ENTRY_SIZE * share) // ENTRY_SIZE if at == 2 else 0)
    resumed.engine.close()
    assert check(folder, data, most_known=12) == (0 if first else 12)


def test_a_directory_that_was_only_begun_is_used(written: Any) -> None:
    folder, data = written
    (inside,) = folder.iterdir()
    (inside / LAYOUT_FILE).unlink()
    assert check(folder, data, most_known=0) == 0


def test_a_damaged_layout_is_an_error(written: Any) -> None:
    folder, data = written
    (inside,) = folder.iterdir()
    file = inside / LAYOUT_FILE
    text = file.read_text()
    for damaged in (text[:20], text.replace("float32", "float64"), "[]"):
        file.write_text(damaged)
        with pytest.raises(ConfigError, match=r"layout.json is damaged"):
            Cached(folder, words())(data[0])


def under_one_name(hidden: paddle.Tensor, mask: paddle.Tensor) -> paddle.Tensor:
    return hidden.sum([1, 2])


under_one_name.__qualname__ = pooled.__qualname__


def test_mixed_forms_in_one_directory_are_refused(written: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, data = written
    with pytest.raises(ConfigError, match=r"holds rows with the mapped layers \['embed'\], and \[\] are mapped now"):
        Cached(folder, words(), layers=())(data[0])
    with pytest.raises(ConfigError, match=r"the teacher answered with .* all answers in one directory have one form"):
        Cached(folder, words(under_one_name))(full(seed=5)[0])
    gc.collect()  # the traceback of the error holds the lock
    monkeypatch.setattr("ofa_slim.train.teacher.store._FORMAT", 2)
    with pytest.raises(ConfigError, match="is of format 1, not 2"):
        Cached(folder, words())(data[0])


def test_a_cache_has_one_user_at_a_time(written: Any) -> None:
    folder, data = written
    cached = Cached(folder, words())
    cached(data[0])
    other = Cached(folder, words())
    with pytest.raises(ConfigError, match=r"is in use by process \d+ \(this one\); a cache has one user at a time"):
        other(data[0])
    cached.engine.close()
    other(data[0])
    assert other.calls == 0
    other.engine.close()


HOLD = """
import fcntl, os, sys, time
file = os.open(sys.argv[1], os.O_RDWR)
fcntl.flock(file, fcntl.LOCK_EX)
print("held", flush=True)
time.sleep(60)
"""


@pytest.mark.slow
def test_the_lock_of_a_process_that_was_killed_does_no_harm(written: Any) -> None:
    folder, data = written
    (inside,) = folder.iterdir()
    with subprocess.Popen([sys.executable, "-c", HOLD, str(inside / LOCK_FILE)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        try:
            with pytest.raises(ConfigError, match="is in use by process"):
                Cached(folder, words())(data[0])
        finally:
            holder.kill()
    assert (inside / LOCK_FILE).is_file()
    check(folder, data, most_known=12)
