"""A headless Chromium, driven over its debugging pipe: messages of JSON that end in a zero byte."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PATIENCE = 60  # seconds


class Tab:
    """A page. `requests` are the addresses that it asked for, `complaints` what it wrote to its console."""

    def __init__(self, sends: int, reads: int) -> None:
        self._sends, self._reads = sends, reads
        self._left = b""
        self._number = 0
        self._session: str | None = None
        self.requests: list[str] = []
        self.complaints: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **arguments: Any) -> Any:
        """The answer to a command."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": arguments}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._sends, json.dumps(message).encode() + b"\0")
        while (answer := self._read()).get("id") != self._number:
            self._note(answer)
        assert "error" not in answer, answer
        return answer["result"]

    def _read(self) -> dict[str, Any]:
        until = time.monotonic() + PATIENCE
        while b"\0" not in self._left:
            ready, _, _ = select.select([self._reads], [], [], max(0.0, until - time.monotonic()))
            assert ready, "the browser says nothing"
            more = os.read(self._reads, 1 << 20)
            assert more, "the browser has ended"
            self._left += more
        one, _, self._left = self._left.partition(b"\0")
        return json.loads(one)

    def _note(self, event: dict[str, Any]) -> None:
        about = event.get("params", {})
        if event.get("method") == "Network.requestWillBeSent":
            self.requests.append(about["request"]["url"][:200])
        elif event.get("method") == "Runtime.exceptionThrown":
            self.complaints.append(str(about["exceptionDetails"]))
        elif event.get("method") == "Log.entryAdded":
            self.complaints.append(str(about["entry"]))
        elif event.get("method") == "Runtime.consoleAPICalled":
            self.complaints.append(str(about["args"]))

    def open(self, file: Path, width: int = 1100, dark: bool = False, scripts: bool = True) -> float:
        """Opens a file; returns the seconds until it is drawn."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 500
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Emulation.setScriptExecutionDisabled", value=not scripts)
        self.requests.clear()
        start = time.perf_counter()
        self.call("Page.navigate", url=file.resolve().as_uri())
        while self.value("location.protocol + document.readyState") != "file:complete":
            time.sleep(0.01)
        if scripts:
            self.value("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(0))))")
        return time.perf_counter() - start

    def value(self, expression: str) -> Any:
        """The value of an expression of JavaScript."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def move(self, x: float, y: float, click: bool = False) -> None:
        """Moves the pointer, and clicks."""
        for kind in ("mouseMoved", *(("mousePressed", "mouseReleased") if click else ())):
            more = {} if kind == "mouseMoved" else {"button": "left", "clickCount": 1}
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)

    def press(self, key: str, code: int) -> None:
        """Presses a key."""
        for kind in ("rawKeyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)

    def picture(self, file: Path) -> None:
        """Writes what the whole page looks like, as PNG."""
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        file.write_bytes(base64.b64decode(shot))


@contextmanager
def browser(profile: Path) -> Iterator[Tab]:
    """A new browser with a tab; it ends with the block.

    Args:
        profile: a folder of its own, for its files.
    """
    assert CHROMIUM is not None
    command = [
        CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
        "--disable-background-networking", "--remote-debugging-pipe", f"--user-data-dir={profile}",
    ]  # fmt: skip
    given, sends = os.pipe()
    reads, answers = os.pipe()
    # The browser reads commands from descriptor 3 and answers on 4.
    shell = f'exec "$@" 3<&{given} 4>&{answers}'
    process = subprocess.Popen(
        ["bash", "-c", shell, "bash", *command], pass_fds=(given, answers), stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, env={**os.environ, "HOME": str(profile)},
    )  # fmt: skip
    os.close(given)
    os.close(answers)
    try:
        yield Tab(sends, reads)
    finally:
        process.kill()
        process.wait()
        os.close(sends)
        os.close(reads)
