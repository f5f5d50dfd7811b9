"""Headless Chromium, driven over the WebDriver protocol by its own chromedriver."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

PHONE = (390, 844)
DESKTOP = (1440, 900)
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
NEEDS = "Chromium and its driver: apt-get install chromium chromium-driver"
MEAN_COLORS = """
    const image = document.querySelector("#picture"), canvas = document.createElement("canvas");
    canvas.width = 48; canvas.height = 22;
    const context = canvas.getContext("2d");
    context.drawImage(image, 0, 0, canvas.width, canvas.height);
    return Array.from(context.getImageData(0, 0, canvas.width, canvas.height).data);
"""


def find_programs() -> tuple[str, str] | None:
    """Chromedriver and Chromium as Debian and Ubuntu package it, or Chrome; None without one of them."""
    driver = shutil.which("chromedriver")
    chromium = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
    return None if driver is None or chromium is None else (driver, chromium)


class Browser:
    """One Chromium window the size of a phone, with a touch screen, or of a desktop, with a mouse."""

    def __init__(self, *programs: str, phone: bool = True) -> None:
        """Paths of both programs; before them may stand a command that starts programs, such as "nice"."""
        *driver, chromium = programs
        self._process = subprocess.Popen(
            [*driver, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert self._process.stdout is not None
        lines = iter(self._process.stdout.readline, "")
        port = next(
            match.group(1) for line in lines if (match := re.search(r"successfully on port (\d+)", line))
        )
        self._base = f"http://127.0.0.1:{port}/session"
        options: dict[str, Any] = {
            "binary": chromium,
            "args": ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"],
        }
        if phone:
            metrics = {"width": PHONE[0], "height": PHONE[1], "pixelRatio": 2.0}
            options["mobileEmulation"] = {"deviceMetrics": metrics}
        capabilities = {"alwaysMatch": {"browserName": "chrome", "goog:chromeOptions": options}}
        self._base += f"/{self._call('', {'capabilities': capabilities})['sessionId']}"
        if not phone:
            width, height = DESKTOP
            self.command(
                "Emulation.setDeviceMetricsOverride",
                width=width,
                height=height,
                deviceScaleFactor=1,
                mobile=False,
            )

    def close(self) -> None:
        self._call("", method="DELETE")
        self._process.terminate()
        self._process.communicate(timeout=20)

    def open(self, url: str) -> None:
        self._call("/url", {"url": url})

    @property
    def url(self) -> str:
        return str(self._call("/url"))

    def command(self, name: str, **given: Any) -> Any:
        """A command of Chromium's own protocol (chromedevtools.github.io/devtools-protocol)."""
        return self._call("/goog/cdp/execute", {"cmd": name, "params": given})

    def prefer(self, scheme: str) -> None:
        """As who has set the system to "light" or "dark"."""
        self.command(
            "Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}]
        )

    def press(self, *keys: str) -> None:
        """Press and release keys, on what has the focus; special ones by their code in WebDriver."""
        actions = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        self._call("/actions", {"actions": [{"type": "key", "id": "keys", "actions": actions}]})

    def draw(self, *points: tuple[float, float], touch: bool = False) -> None:
        """Press on the first point, move to each of the others, and lift, with the mouse or a finger.

        points: x and y in pixels of the window.
        """
        moves = [
            {"type": "pointerMove", "x": round(x), "y": round(y), "duration": 60 if i else 0}
            for i, (x, y) in enumerate(points)
        ]
        down, up = ({"type": kind, "button": 0} for kind in ("pointerDown", "pointerUp"))
        kind = "touch" if touch else "mouse"
        source = {"type": "pointer", "id": kind, "parameters": {"pointerType": kind}}
        self._call("/actions", {"actions": [{**source, "actions": [moves[0], down, *moves[1:], up]}]})

    def type(self, selector: str, text: str) -> None:
        """Type into a field, after what is in it."""
        found = self._call("/element", {"using": "css selector", "value": selector})
        self._call(f"/element/{found[ELEMENT]}/value", {"text": text})

    def click(self, selector: str) -> None:
        found = self._call("/element", {"using": "css selector", "value": selector})
        self._call(f"/element/{found[ELEMENT]}/click", {})

    def run(self, script: str) -> Any:
        """What the script returns."""
        return self._call("/execute/sync", {"script": script, "args": []})

    def text(self, selector: str) -> str:
        """The text a reader sees; "" for something hidden."""
        return str(
            self.run(
                f"const e = document.querySelector({selector!r}); "
                "return e.checkVisibility() ? e.innerText : ''"
            )
        )

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self._call("/screenshot")))

    def _call(self, path: str, body: dict[str, Any] | None = None, method: str | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            self._base + path, data, {"Content-Type": "application/json"}, method=method
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            with error:
                raise AssertionError(error.read().decode()) from None


def soon(wanted: Callable[[], Any], seconds: float = 20.0) -> Any:
    """The first true value, or whatever the last one is."""
    end = time.monotonic() + seconds
    while not (value := wanted()) and time.monotonic() < end:
        time.sleep(0.05)
    return value


def pixels(browser: Browser) -> list[int]:
    """Of the picture as it is shown now, made small."""
    return browser.run(MEAN_COLORS)
