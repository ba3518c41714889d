"""Progress where there is no terminal: few lines that say how far it is and how long it will take."""

from __future__ import annotations

import sys
import time

import pytest

from ofa_slim.base.progress import Lines, counted, duration, progress

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, in seconds, which tests move on."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_a_log_gets_a_line_now_and_then(clock: list[float], capsys: Capture) -> None:
    with progress(100, "training", "steps", initial=10) as bar:
        for _ in range(90):
            clock[0] += 0.5
            bar.set_postfix_str("loss 0.5")
            bar.update()
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "training: 30 of 100 steps, 10 s so far, about 35 s left, loss 0.5",
        "training: 50 of 100 steps, 20 s so far, about 25 s left, loss 0.5",
        "training: 70 of 100 steps, 30 s so far, about 15 s left, loss 0.5",
        "training: 90 of 100 steps, 40 s so far, about 5 s left, loss 0.5",
        "training: 100 of 100 steps, 45 s so far, loss 0.5",
    ]


def test_what_is_short_or_not_shown_says_nothing(clock: list[float], capsys: Capture) -> None:
    for show in (True, False):
        assert list(counted([1, 2, 3], "importance", "batches", show=show)) == [1, 2, 3]
        clock[0] += 1
    with progress(None, "anything", "rows", show=False) as bar:
        clock[0] += 1000
        bar.update()
    assert capsys.readouterr().err == ""


def test_an_unknown_total_and_a_second_close(clock: list[float], capsys: Capture) -> None:
    bar = Lines(None, "scores", "batches")
    for _ in range(3):
        clock[0] += 6
        bar.update()
    bar.close()
    bar.close()
    assert capsys.readouterr().err.splitlines() == ["scores: 2 batches, 12 s so far", "scores: 3 batches, 18 s so far"]


def test_a_terminal_gets_a_bar_that_goes_away(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with progress(2, "training", "steps") as bar:
        bar.update(2)
    assert not isinstance(bar, Lines)
    assert bar.leave is False
    assert "\n" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.2, "0 s"), (99, "99 s"), (100, "2 min"), (5940, "99 min"), (7200, "2.0 h")]
)
def test_times_in_words(seconds: float, words: str) -> None:
    assert duration(seconds) == words
