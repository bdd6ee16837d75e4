"""A page in headless Chromium, driven with the DevTools protocol."""

from __future__ import annotations

import base64
import itertools
import json
import shutil
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any

import websocket

Json = dict[str, Any]
NAMES = ("chromium", "chromium-browser", "google-chrome")
PATIENCE = 60  # seconds
KEYS = {"Tab": 9, "End": 35, "Home": 36, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}


def find_browser() -> str | None:
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Browser:
    """One tab. What goes wrong in it, and what it asks the network for, is noted in `errors` and `requests`."""

    def __init__(self, program: str, folder: Path) -> None:
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run", "--remote-allow-origins=*"]
        where = ["--remote-debugging-port=0", f"--user-data-dir={folder}", "about:blank"]
        self._process = subprocess.Popen([program, *flags, *where], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.errors: list[str] = []
        self.requests: list[str] = []
        self._ids = itertools.count(1)
        self._loaded = False
        try:
            self._socket = websocket.create_connection(self._address(folder / "DevToolsActivePort"), timeout=PATIENCE)
            for domain in ("Page", "Runtime", "Log", "Network"):
                self.call(f"{domain}.enable")
            self.call("Emulation.setFocusEmulationEnabled", enabled=True)
        except BaseException:
            self.close()
            raise

    def _address(self, file: Path) -> str:
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end and self._process.poll() is None:
            if file.exists() and "\n" in file.read_text(encoding="utf-8"):
                port = file.read_text(encoding="utf-8").split()[0]
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=PATIENCE) as said:
                    tabs = [t for t in json.load(said) if t["type"] == "page"]
                if tabs:
                    return tabs[0]["webSocketDebuggerUrl"]
            time.sleep(0.05)
        raise RuntimeError(f"{self._process.args[0]} did not start")

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(PATIENCE)

    def _note(self, method: str, params: Json) -> None:
        if method == "Page.loadEventFired":
            self._loaded = True
        elif method == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(params["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled":
            self.errors.append(f"console.{params['type']}: {params['args']}")
        elif method == "Log.entryAdded":
            self.errors.append(params["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])

    def _receive(self) -> Json:
        message = json.loads(self._socket.recv())
        if "method" in message:
            self._note(message["method"], message["params"])
        return message

    def call(self, method: str, **params: Any) -> Json:
        number = next(self._ids)
        self._socket.send(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            message = self._receive()
            if message.get("id") == number:
                assert "error" not in message, (method, message["error"])
                return message["result"]

    def open(self, page: Path) -> None:
        self._loaded = False
        self.errors.clear()
        self.requests.clear()
        self.call("Page.navigate", url=page.as_uri())
        while not self._loaded:
            self._receive()

    def value(self, expression: str) -> Any:
        said = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in said, said["exceptionDetails"]
        return said["result"].get("value")

    def press(self, key: str) -> None:
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=KEYS[key])

    def type(self, text: str) -> None:
        self.call("Input.insertText", text=text)

    def resize(self, width: int, height: int, scale: float = 1) -> None:
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=width < 600)

    def scheme(self, name: str) -> None:
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": name}])

    def screenshot(self, path: Path, whole: bool = True) -> None:
        said = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(said["data"]))
