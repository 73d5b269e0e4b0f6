"""A headless Chromium, driven over its DevTools protocol: no driver, no dependency of its own."""

import base64
import io
import json
import os
import re
import shutil
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from websockets.sync.client import connect

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome", "headless_shell")
# WebGL without a GPU.
FLAGS = (
    "--headless", "--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist", "--no-first-run", "--hide-scrollbars",
    "--remote-debugging-port=0", "--no-zygote", "--in-process-gpu", "--disable-extensions",
    "--lang=en-US",
)  # fmt: skip


def find() -> str | None:
    """The browser: $NFIELDS_CHROMIUM, or one on the path."""
    given = os.environ.get("NFIELDS_CHROMIUM")
    return given or next((found for name in NAMES if (found := shutil.which(name))), None)


class Browser:
    """One page in one browser."""

    def __init__(self, program: str, folder: Path, width: int, height: int):
        command = [program, *FLAGS, f"--user-data-dir={folder}", f"--window-size={width},{height}"]
        # Of the C locale Chromium makes a language tag that its own Intl refuses.
        environment = {**os.environ, "LANG": "en_US.UTF-8", "LC_ALL": "en_US.UTF-8"}
        with (folder / "log").open("w") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        self._size, self._count = (width, height), 0
        address = self._wait_for(folder / "log")
        request = urllib.request.Request(f"{address}/json/new?about:blank", method="PUT")
        with urllib.request.urlopen(request, timeout=20) as answer:
            page = json.loads(answer.read())
        self._socket = connect(page["webSocketDebuggerUrl"], max_size=None, proxy=None)
        self.send("Page.enable")

    def _wait_for(self, log: Path) -> str:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and self._process.poll() is None:
            found = re.search(r"DevTools listening on ws://([^/]+)/", log.read_text())
            if found:
                return f"http://{found[1]}"
            time.sleep(0.05)
        raise RuntimeError(f"the browser did not start: {log.read_text()[-500:]}")

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The result of a command of the DevTools protocol."""
        self._count += 1
        self._socket.send(json.dumps({"id": self._count, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv(timeout=60))
            if message.get("id") == self._count:
                assert "error" not in message, message
                return message["result"]

    def open(self, address: str) -> None:
        """Shows a page."""
        self.send("Page.navigate", url=address)

    def screenshot(self) -> np.ndarray:
        """What is on the page, (h, w, 3) uint8."""
        data = self.send("Page.captureScreenshot", format="png")["data"]
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))

    def evaluate(self, script: str) -> Any:
        """The value of an expression in the page."""
        return self.send("Runtime.evaluate", expression=script, returnByValue=True)["result"].get(
            "value"
        )

    def drag(self, start: tuple[int, int], end: tuple[int, int], steps: int = 8) -> None:
        """Presses the left button, moves, and lets go."""
        self._mouse("mousePressed", *start, "left")
        for k in range(1, steps + 1):
            x = start[0] + (end[0] - start[0]) * k // steps
            y = start[1] + (end[1] - start[1]) * k // steps
            self._mouse("mouseMoved", x, y, "left")
            time.sleep(0.02)
        self._mouse("mouseReleased", *end, "left")

    def click(self, x: int, y: int) -> None:
        """Clicks at a place."""
        self._mouse("mousePressed", x, y, "left")
        self._mouse("mouseReleased", x, y, "left")

    def _mouse(self, kind: str, x: int, y: int, button: str) -> None:
        self.send(
            "Input.dispatchMouseEvent", type=kind, x=x, y=y, button=button, buttons=1, clickCount=1
        )

    def close(self) -> None:
        """Ends the browser."""
        self._socket.close()
        self._process.terminate()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
