"""Run steps in a page with headless Chromium or Chrome, through the pipe of its developer tools."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = "--headless --hide-scrollbars --no-sandbox --disable-gpu --no-first-run --remote-debugging-pipe"


class Browser:
    """A browser with one page.

    Parameters
    ----------
    folder : Path
        Empty folder for its profile.
    size : (int, int)
        Width and height of the page (px).
    """

    def __init__(self, folder: str | Path, size: tuple[int, int] = (1280, 800)) -> None:
        # the browser reads from its file descriptor 3 and writes to 4
        to_browser, self.write = os.pipe()
        self.read, from_browser = os.pipe()
        shift = f"exec 3<&{to_browser} 4>&{from_browser} && exec"
        command = [
            BROWSER or "chromium",
            *FLAGS.split(),
            f"--window-size={size[0]},{size[1]}",
            f"--user-data-dir={folder}",
        ]
        self.process = subprocess.Popen(
            ["bash", "-c", f'{shift} "$@"', "browser", *command, "about:blank"],
            pass_fds=(to_browser, from_browser),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser)
        os.close(from_browser)
        self.left, self.number = b"", 0
        self.session: str | None = None
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.write)
        self.process.wait(20)
        os.close(self.read)

    def _message(self) -> dict[str, Any]:
        while b"\0" not in self.left:
            part = os.read(self.read, 1 << 20)
            assert part, "the browser ended"
            self.left += part
        message, _, self.left = self.left.partition(b"\0")
        received: dict[str, Any] = json.loads(message)
        return received

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Call a method of the developer tools, and return its result."""
        self.number += 1
        request = {"id": self.number, "method": method, "params": params}
        request |= {"sessionId": self.session} if self.session else {}
        os.write(self.write, json.dumps(request).encode() + b"\0")
        while (message := self._message()).get("id") != self.number:
            self.events.append(message)
        assert "error" not in message, message
        result: dict[str, Any] = message["result"]
        return result

    def open(self, path: Path) -> None:
        """Open a file as page, and wait until it is loaded."""
        self.events.clear()
        self.call("Page.navigate", url=path.as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self.events.append(self._message())

    def run(self, script: str) -> Any:
        """Run the body of an asynchronous function in the page, and return its result."""
        result = self.call(
            "Runtime.evaluate",
            expression=f"(async () => {{ {script} }})()",
            awaitPromise=True,
            returnByValue=True,
        )
        assert "exceptionDetails" not in result, result["exceptionDetails"]["exception"]["description"]
        return result["result"].get("value")

    def picture(self, selector: str) -> bytes:
        """Return a picture of the first element that a CSS selector finds, PNG."""
        edges = self.run(
            f"""const box = document.querySelector({json.dumps(selector)}).getBoundingClientRect();
            const [x, y] = [box.x + scrollX, box.y + scrollY];
            return {{ x, y, width: box.width, height: box.height, scale: 1 }};"""
        )
        taken = self.call("Page.captureScreenshot", clip=edges, captureBeyondViewport=True)
        return base64.b64decode(taken["data"])

    def problems(self) -> list[str]:
        """Return messages on the console, errors, and addresses requested beside the page itself."""
        found = []
        for event in self.events:
            params = event.get("params", {})
            if event["method"] in ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded"):
                found.append(json.dumps(params)[:500])
            if event["method"] == "Network.requestWillBeSent" and params.get("type") != "Document":
                found += [url for url in [params["request"]["url"]] if not url.startswith("data:")]
        return found
