"""A headless Chromium for tests, driven through its debugging socket, with no network but loopback."""

import base64
import contextlib
import http.server
import json
import re
import shutil
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from websockets.sync.client import connect
from websockets.sync.connection import Connection

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-domain-reliability",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # no name is looked up
    "--proxy-server=127.0.0.1:9",  # whatever is not loopback goes to a proxy that is not there
    "--proxy-bypass-list=127.0.0.1",
    "--remote-debugging-port=0",
)


def found() -> str | None:
    """The browser's path, if there is one."""
    return shutil.which("chromium") or shutil.which("google-chrome")


@dataclass
class Page:
    """One tab: its socket, and every event that it told."""

    socket: Connection
    events: list[dict[str, Any]] = field(default_factory=list)
    count: int = 0

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        self.count += 1
        self.socket.send(json.dumps({"id": self.count, "method": method, "params": params}))
        while True:
            answer: dict[str, Any] = json.loads(self.socket.recv(timeout=120))
            if answer.get("id") == self.count:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result
            self.events.append(answer)

    def value(self, expression: str) -> Any:
        got = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in got, got
        return got["result"].get("value")

    def until(self, expression: str, seconds: float = 120) -> Any:
        late = time.monotonic() + seconds
        while not (seen := self.value(expression)):
            assert time.monotonic() < late, (expression, self.value("document.body.innerText"), self.said())
            time.sleep(0.1)
        return seen

    def type(self, selector: str, text: str) -> None:
        self.value(f"document.querySelector({selector!r}).select(); document.querySelector({selector!r}).focus()")
        self.call("Input.insertText", text=text)

    def picture(self, path: Path, width: int, height: int, dark: bool = False) -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=2, mobile=width < 600
        )
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setEmulatedMedia", features=scheme)
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))

    def asked(self) -> list[str]:
        """Every address that was asked for."""
        sent = [one["params"] for one in self.events if one.get("method") == "Network.requestWillBeSent"]
        return [one["request"]["url"] for one in sent]

    def said(self) -> list[str]:
        """What went to the console, refusals of the Content-Security-Policy among it."""
        entries = [one["params"]["entry"]["text"] for one in self.events if one.get("method") == "Log.entryAdded"]
        thrown = [one["params"] for one in self.events if one.get("method") == "Runtime.exceptionThrown"]
        return [*entries, *map(str, thrown)]


@contextlib.contextmanager
def opened(url: str, profile: Path) -> Iterator[Page]:
    """A page at an address, everything that it asks for recorded; the browser ends with the block."""
    browser = found()
    assert browser is not None
    command = [browser, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stderr is not None
            lines = (re.search(r"ws://(127\.0\.0\.1:\d+)/", line) for line in process.stderr)
            address = next(line for line in lines if line)[1]
            threading.Thread(target=process.stderr.read, daemon=True).start()  # it must not fill the pipe
            with urllib.request.urlopen(f"http://{address}/json") as answer:
                tab = next(one for one in json.load(answer) if one["type"] == "page")
            with connect(tab["webSocketDebuggerUrl"], max_size=None, proxy=None) as socket:
                page = Page(socket)
                for domain in ("Network", "Log", "Runtime", "Page"):
                    page.call(f"{domain}.enable")
                page.call("Page.navigate", url=url)
                yield page
        finally:
            process.terminate()
            process.wait(20)


@contextlib.contextmanager
def opened_folder(folder: Path, profile: Path) -> Iterator[tuple[Page, str, Callable[[], None]]]:
    """A folder's index.html, the address it is served at, and what ends the server."""
    with contextlib.ExitStack() as serving:
        url = serving.enter_context(served(folder))
        with opened(url, profile) as page:
            yield page, url, serving.close


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a folder served on loopback, as `python -m http.server` does."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/"
        finally:
            server.shutdown()
            thread.join()
