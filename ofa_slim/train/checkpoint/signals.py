"""`stop_on_signals`: a run that is asked to stop finishes its step first."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class StopRequest:
    """Whether a signal asked the run to stop.

    Attributes:
        signal: the first signal that arrived; None before.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    @property
    def requested(self) -> bool:
        """Whether to stop."""
        return self.signal is not None


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Inside the block SIGTERM and SIGINT only set a flag, which the training loop checks.

    A second signal has its usual effect at once. The flag is never set outside the main thread, where Python does not
    allow signal handlers, nor for a signal that the process ignores. ::

        with stop_on_signals() as stop:
            for step in range(done, steps):
                ...
                if stop.requested:
                    manager.save(step + 1, parts)
                    break
    """
    request = StopRequest()
    before: dict[int, Any] = {}

    def note(number: int, frame: FrameType | None) -> None:
        if request.signal is None:
            request.signal = signal.Signals(number)
            return
        for each, handler in before.items():
            signal.signal(each, handler)
        signal.raise_signal(number)

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            handler = signal.getsignal(number)
            if handler not in (signal.SIG_IGN, None):  # None: not set by Python, which could not set it back
                before[number] = handler
                signal.signal(number, note)
    try:
        yield request
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
