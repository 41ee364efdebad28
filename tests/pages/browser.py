"""Headless Chromium over its DevTools protocol, as far as these tests need it."""

import base64
import itertools
import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from websockets.sync.client import ClientConnection, connect

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
PATIENCE_S = 60.0
FOREIGN = "foreign.test"
"""A name that leads to this machine, in this browser alone."""


def found() -> str | None:
    return next(filter(None, map(shutil.which, PROGRAMS)), None)


class Browser:
    """One process for all tests; each tab has a profile of its own."""

    def __init__(self, program: str, folder: Path) -> None:
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
        flags += ["--disable-background-networking", "--disable-component-update", "--hide-scrollbars"]
        flags += [f"--host-resolver-rules=MAP {FOREIGN} 127.0.0.1", "--remote-debugging-port=0"]
        self._log = (folder / "log").open("w+")
        command = [program, *flags, f"--user-data-dir={folder / 'profile'}", "about:blank"]
        self._process = subprocess.Popen(command, stderr=self._log, stdout=subprocess.DEVNULL)
        self._connection = connect(self._address(folder / "log"), max_size=64 << 20)
        self._numbers = itertools.count(1)
        self.tabs: dict[str, Tab] = {}

    def _address(self, log: Path) -> str:
        until = time.monotonic() + PATIENCE_S
        while time.monotonic() < until:
            if said := re.search(r"DevTools listening on (\S+)", log.read_text()):
                return said[1]
            time.sleep(0.05)
        raise TimeoutError(log.read_text())

    def __enter__(self) -> Self:
        self._socket = self._connection.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.__exit__(kind, error, trace)
        self._process.terminate()
        self._process.wait(PATIENCE_S)
        self._log.close()

    def send(self, method: str, session: str = "", **params: Any) -> Any:
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": params} | ({"sessionId": session} if session else {})
        self._socket.send(json.dumps(message))
        until = time.monotonic() + PATIENCE_S
        while time.monotonic() < until:
            said = self.hear(self._socket, until - time.monotonic())
            if said.get("id") == number:
                if "error" in said:
                    raise RuntimeError(f"{method}: {said['error']}")
                return said["result"]
        raise TimeoutError(method)

    def hear(self, socket: ClientConnection, timeout_s: float) -> dict[str, Any]:
        said: dict[str, Any] = json.loads(socket.recv(timeout_s))
        if tab := self.tabs.get(said.get("sessionId", "")):
            tab.note(said)
        return said

    @contextmanager
    def tab(self) -> "Iterator[Tab]":
        context = self.send("Target.createBrowserContext")["browserContextId"]
        target = self.send("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        tab = self.tabs[session] = Tab(self, session)
        for domain in ("Page", "Runtime", "Network", "Log"):
            tab.send(f"{domain}.enable")
        try:
            yield tab
        finally:
            del self.tabs[session]
            self.send("Target.disposeBrowserContext", browserContextId=context)


class Tab:
    """`asked`: every address that was asked for; `errors`: what scripts threw, and what the page's policy refused."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser, self._session = browser, session
        self.asked: list[str] = []
        self.errors: list[str] = []

    def send(self, method: str, **params: Any) -> Any:
        return self._browser.send(method, self._session, **params)

    def note(self, said: dict[str, Any]) -> None:
        params = said.get("params", {})
        match said.get("method"):
            case "Network.requestWillBeSent":
                self.asked.append(params["request"]["url"])
            case "Runtime.exceptionThrown":
                details = params["exceptionDetails"]
                self.errors.append(details.get("exception", {}).get("description") or details["text"])
            case "Log.entryAdded" if params["entry"]["source"] in ("security", "violation"):
                self.errors.append(params["entry"]["text"])

    def elsewhere(self) -> list[str]:
        own = ("127.0.0.1", "localhost", FOREIGN, None)
        return [url for url in self.asked if not url.startswith("data:") and urlsplit(url).hostname not in own]

    def go(self, url: str) -> None:
        self.send("Page.navigate", url=url)

    def js(self, expression: str) -> Any:
        found = self.send("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in found:
            raise RuntimeError(f"{expression}: {found['exceptionDetails']}")
        return found["result"].get("value")

    def wait(self, expression: str) -> Any:
        """Until it is something."""
        until = time.monotonic() + PATIENCE_S
        while True:
            try:
                said = self.js(expression)
            except RuntimeError:
                said = None
            if said:
                return said
            if time.monotonic() > until:
                raise AssertionError(f"{expression} did not become true; {self.errors}; the page says:\n{self.text()}")
            time.sleep(0.05)

    def text(self) -> str:
        return self.js("document.body.innerText") or ""

    def shows(self, *texts: str) -> None:
        for text in texts:
            self.wait(f"document.body.innerText.includes({json.dumps(text)})")

    def lacks(self, text: str) -> None:
        self.wait(f"!document.body.innerText.includes({json.dumps(text)})")

    def click(self, text: str, tag: str = "a, button") -> None:
        """On what is called so, by the mouse, as a person does."""
        chosen = (
            f"[...document.querySelectorAll({json.dumps(tag)})].find(e => e.innerText.trim() === {json.dumps(text)})"
        )
        self.wait(f"!!{chosen}")
        x, y = self.js(
            f"(() => {{ const e = {chosen}; e.scrollIntoView({{block: 'center'}}); const r = e.getClientRects()[0];"
            " return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def press(self, key: str, text: str = "") -> None:
        code = {"Tab": 9, "Enter": 13, "Backspace": 8}.get(key, 0)
        text = "\r" if key == "Enter" else text
        self.send("Input.dispatchKeyEvent", type="keyDown", key=key, windowsVirtualKeyCode=code, text=text)
        self.send("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code)

    def type(self, text: str) -> None:
        self.send("Input.insertText", text=text)

    def screen(self, width: int = 1100, *, dark: bool = False) -> None:
        self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 500
        )
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.send("Emulation.setEmulatedMedia", features=features)

    def picture(self, file: Path, most_high: int = 1750) -> None:
        """The whole page, as WebP."""
        width = self.js("document.documentElement.clientWidth")
        height = min(most_high, self.js("document.documentElement.scrollHeight"))
        clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 0.7}
        said = self.send("Page.captureScreenshot", format="webp", quality=28, clip=clip, captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(said["data"]))
