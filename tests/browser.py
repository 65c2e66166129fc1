"""A headless browser in a test: pages in, what stands and happens in them out. Chromium's DevTools protocol over two pipes."""

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")
KEYS = {"Enter": ("\r", 13), "Escape": ("", 27), "ArrowDown": ("", 40), "End": ("", 35)}


def find_browser() -> str | None:
    """The program named by PRM_TEST_BROWSER, or the first known one on the path."""
    return os.environ.get("PRM_TEST_BROWSER") or next(filter(None, map(shutil.which, NAMES)), None)


def _high_pipe() -> list[int]:
    """Both ends of a pipe, with numbers far from those that the browser expects."""
    ends = os.pipe()
    high = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 100) for end in ends]
    for end in ends:
        os.close(end)
    return high


class Browser:
    """One tab; `events` holds what the page said, asked for and threw since `open`."""

    def __init__(self, program: str):
        self.profile = tempfile.mkdtemp(prefix="browser-")
        (read_theirs, write_ours), (read_ours, write_theirs) = _high_pipe(), _high_pipe()
        # The protocol's pipes are the descriptors 3 and 4.
        shell = f'exec "$0" "$@" 3<&{read_theirs} 4>&{write_theirs}'
        flags = [*FLAGS, "--remote-debugging-pipe", f"--user-data-dir={self.profile}", "about:blank"]
        command = ["bash", "-c", shell, program, *flags]
        quiet = subprocess.DEVNULL
        self.process = subprocess.Popen(command, pass_fds=(read_theirs, write_theirs), stdin=quiet, stdout=quiet, stderr=quiet)
        os.close(read_theirs)
        os.close(write_theirs)
        self.reader, self.writer, self.buffer = read_ours, write_ours, b""
        self.number, self.session, self.events = 0, None, []
        target = next(t for t in self.call("Target.getTargets")["targetInfos"] if t["type"] == "page")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        self.number += 1
        message = {"id": self.number, "method": method, "params": params} | ({"sessionId": self.session} if self.session else {})
        os.write(self.writer, json.dumps(message).encode() + b"\0")
        while (answer := self._receive()).get("id") != self.number:
            self.events.append(answer)
        assert "error" not in answer, f"{method}: {answer.get('error')}"
        return answer["result"]

    def open(self, path: Path, width: int = 1280, height: int = 900, dark: bool = False, fragment: str = "") -> None:
        """Load a file in a window of that size and wait until it has."""
        self.call("Page.navigate", url="about:blank")
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500)
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setEmulatedMedia", features=scheme)
        self.events.clear()
        self.call("Page.navigate", url=path.resolve().as_uri() + fragment)
        self.wait("document.readyState === 'complete'")

    def run(self, script: str) -> Any:
        """The value of an expression in the page."""
        result = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def wait(self, condition: str, seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while not self.run(condition):
            assert time.monotonic() < end, f"never true in {seconds} s: {condition}"
            time.sleep(0.02)

    def press(self, key: str) -> None:
        text, code = KEYS.get(key, (key, ord(key[0].upper())))
        common = {"key": key, "windowsVirtualKeyCode": code}
        self.call("Input.dispatchKeyEvent", type="keyDown", **common, **({"text": text} if text else {}))
        self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    def type(self, text: str) -> None:
        self.call("Input.insertText", text=text)

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))

    def requests(self) -> list[str]:
        """Every address that the page asked for, itself among them."""
        return [e["params"]["request"]["url"] for e in self._named("Network.requestWillBeSent")]

    def complaints(self) -> list[Any]:
        """Exceptions, console errors and what the browser itself reported, such as refused scripts."""
        said = [e["params"] for e in self._named("Runtime.consoleAPICalled") if e["params"]["type"] in ("error", "warning")]
        return said + [e["params"] for e in self._named("Runtime.exceptionThrown") + self._named("Log.entryAdded")]

    def close(self) -> None:
        self.session = None
        self.call("Browser.close")
        self.process.wait(timeout=20)
        os.close(self.reader)
        os.close(self.writer)
        shutil.rmtree(self.profile, ignore_errors=True)

    def _named(self, method: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event.get("method") == method]

    def _receive(self, seconds: float = 120) -> dict[str, Any]:
        while b"\0" not in self.buffer:
            ready, _, _ = select.select([self.reader], [], [], seconds)
            part = os.read(self.reader, 1 << 20) if ready else b""
            assert part, f"the browser said nothing for {seconds} s or ended with {self.process.poll()}"
            self.buffer += part
        message, self.buffer = self.buffer.split(b"\0", 1)
        return json.loads(message)
