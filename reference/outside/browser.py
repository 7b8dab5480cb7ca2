"""A real browser against the server: Chromium, two pages, and the browser's own WebSocket.

    python reference/outside/browser.py

One page stands at an origin that the server was told to let in, and talks; the other stands at a foreign
origin, with the same cookie, and must be refused. The pages report to the small servers that they come from,
and the verdicts are made here. Why a connection was refused is nothing that a page can see, so a relay notes
it.

Without a Chromium (the variable CHROMIUM, or PATH) the last line says `NOT RUN`, and the exit code is 0; it
is 1 when a check failed.
"""

from __future__ import annotations

import json
import os
import queue
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import BaseRequestHandler, TCPServer, ThreadingTCPServer
from typing import TYPE_CHECKING, Final, TypedDict, TypeVar
from urllib.parse import urlencode, urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator

_Server = TypeVar("_Server", bound=TCPServer)

HOST: Final = "127.0.0.1"
PAGES: Final = Path(__file__).resolve().parent / "pages"
NAMES: Final = ("chromium", "chromium-browser", "google-chrome")
FLAGS: Final = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--disable-extensions"),
]
SERVER: Final = [
    *(sys.executable, "-m", "holdfast_reference", "--conformance", "--port", "0", "--log-level", "warning")
]
COOKIE: Final = "conf_token=tok-alice"
START_SECONDS: Final = 20.0
PAGE_SECONDS: Final = 40.0
STOP_SECONDS: Final = 15.0


class Close(TypedDict):
    """A close event."""

    code: int
    reason: str
    wasClean: bool


class Conversation(TypedDict):
    """One connection of the listed page, from beginning to end."""

    protocol: str
    extensions: str
    frames: list[dict[str, object]]
    close: Close


class Listed(TypedDict):
    """The report of `pages/listed.html`: a second hello ended `talk`, the page itself ended `leave`."""

    talk: Conversation
    leave: Conversation


class Foreign(TypedDict):
    """The report of `pages/foreign.html`: what happened to the only connection that it tried."""

    events: list[str]
    code: int


class NotRun(Exception):
    """There is no browser; the text says what was looked for."""


class Site(ThreadingHTTPServer):
    """An origin: gives out pages with the cookie, and takes a report."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__((HOST, 0), _Page)
        self.origin = f"http://{HOST}:{self.server_port}"
        self.reports: queue.Queue[str] = queue.Queue()

    def url(self, page: str, **parameters: str) -> str:
        return f"{self.origin}/{page}?{urlencode(parameters)}"

    def report(self) -> str:
        """What the page says.

        Raises:
            SystemExit: it says nothing.
        """
        try:
            return self.reports.get(timeout=PAGE_SECONDS)
        except queue.Empty:
            raise SystemExit(f"the page at {self.origin} reported nothing in {PAGE_SECONDS:.0f} s") from None


class _Page(BaseHTTPRequestHandler):
    server: Site

    def do_GET(self) -> None:
        page = PAGES / urlsplit(self.path).path[1:]
        if page not in PAGES.iterdir():
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Set-Cookie", COOKIE)
        self.end_headers()
        self.wfile.write(page.read_bytes())

    def do_POST(self) -> None:
        self.server.reports.put(self.rfile.read(int(self.headers["Content-Length"])).decode())
        self.send_response(204)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass  # the report says it all


class Relay(ThreadingTCPServer):
    """Stands before the server for upgrades that are refused: one request, one answer; keeps both heads."""

    daemon_threads = True

    def __init__(self, url: str) -> None:
        super().__init__((HOST, 0), _Upgrade)
        self.url = f"ws://{HOST}:{self.server_address[1]}/"
        self.port_behind = urlsplit(url).port
        self.request_head = self.answer_head = ""


class _Upgrade(BaseRequestHandler):
    server: Relay
    request: socket.socket

    def handle(self) -> None:
        head = b""
        while not head.endswith(b"\r\n\r\n") and (data := self.request.recv(4096)):
            head += data
        with socket.create_connection((HOST, self.server.port_behind), START_SECONDS) as behind:
            behind.sendall(head)
            answer = b"".join(iter(lambda: behind.recv(4096), b""))
        self.server.request_head = head.decode("latin-1")
        self.server.answer_head = answer.partition(b"\r\n\r\n")[0].decode("latin-1")
        self.request.sendall(answer)


@contextmanager
def running(server: _Server) -> Iterator[_Server]:
    with server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield server
        finally:
            server.shutdown()


@contextmanager
def holdfast_server(origin: str) -> Iterator[str]:
    """Run the server, letting in one origin; gives its URL."""
    with subprocess.Popen([*SERVER, "--origin", origin], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        # Killing the silent process turns the blocking read into an end of file.
        too_slow = threading.Timer(START_SECONDS, process.kill)
        too_slow.start()
        url = process.stdout.readline().strip()
        too_slow.cancel()
        try:
            if not url:
                raise SystemExit("the server did not start")
            yield url
        finally:
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()


@contextmanager
def browser(command: str, url: str) -> Iterator[None]:
    """Run a browser with a profile of its own at a page."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            [command, *FLAGS, f"--user-data-dir={profile}", url],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            yield
        finally:
            os.killpg(process.pid, signal.SIGKILL)  # a browser is many processes
            process.wait(STOP_SECONDS)


def find_browser() -> str:
    for name in (os.environ.get("CHROMIUM"), *NAMES):
        if name and (command := shutil.which(name)):
            return command
    raise NotRun(f"there is no {', '.join(NAMES)} (CHROMIUM=... names one)")


def check_listed(report: Listed) -> dict[str, bool]:
    """The verdicts about the page that is let in."""
    talk, leave = report["talk"], report["leave"]
    frames = talk["frames"]
    answers = {frame["id"]: frame for frame in frames if frame["type"] in {"result", "error"}}
    welcome = frames[0] if frames else {}
    stream = [frame.get("data", frame["type"]) for frame in frames if frame["type"] in {"event", "pong"}]
    greeting = {"type": "result", "id": 1, "data": {"text": "grüße \0 🐎"}}
    horses = {"type": "result", "id": 2, "data": "🐎" * 50_000}
    return {
        "the subprotocol is chosen": talk["protocol"] == "holdfast.v1.json",
        "no extension is": talk["extensions"] == "",
        "hello is answered by welcome": welcome.get("type") == "welcome",
        "the cookie says who it is": _principal(welcome) == "alice",
        "a request is answered": answers.get(1) == greeting,
        "a message of 200 kB makes it both ways": answers.get(2) == horses,
        "a subscription opens": {"type": "open", "id": 3} in frames,
        "publishes are answered": {4, 5}
        <= {id for id, frame in answers.items() if frame["type"] == "result"},
        "events come in order, and the fence after them": stream == ["first", "second", "pong"],
        "a second hello closes with 4002": talk["close"]["code"] == 4002 and talk["close"]["wasClean"],
        "close(1000) ends cleanly": leave["close"]["code"] == 1000 and leave["close"]["wasClean"],
    }


def _principal(welcome: dict[str, object]) -> object:
    auth = welcome.get("auth")
    return auth.get("principal") if isinstance(auth, dict) else None


def check_foreign(report: Foreign, origin: str, relay: Relay) -> dict[str, bool]:
    """The verdicts about the page that is not let in."""
    sent = relay.request_head.splitlines()
    return {
        "the request names the origin": f"Origin: {origin}" in sent,
        "the request carries the cookie": f"Cookie: {COOKIE}" in sent,
        "the answer is 403": relay.answer_head.startswith("HTTP/1.1 403 "),
        "the page gets an error, and no connection": report == {"events": ["error", "close"], "code": 1006},
    }


def main() -> int:
    try:
        command = find_browser()
    except NotRun as reason:
        print(f"NOT RUN: {reason}")
        return 0
    with ExitStack() as stack:
        listed, foreign = stack.enter_context(running(Site())), stack.enter_context(running(Site()))
        url = stack.enter_context(holdfast_server(listed.origin))
        relay = stack.enter_context(running(Relay(url)))
        second = foreign.url("foreign.html", server=relay.url)
        stack.enter_context(browser(command, listed.url("listed.html", server=url, next=second)))
        first_report: Listed = json.loads(listed.report())
        second_report: Foreign = json.loads(foreign.report())
    pages = {
        "listed origin": check_listed(first_report),
        "foreign origin": check_foreign(second_report, foreign.origin, relay),
    }
    for page, checks in pages.items():
        for check, passed in checks.items():
            print(f"{'ok' if passed else 'FAILED':<8}{page}: {check}")
    results = [passed for checks in pages.values() for passed in checks.values()]
    print(f"{len(results)} checks, {results.count(False)} failed")
    return 0 if all(results) else 1


if __name__ == "__main__":
    raise SystemExit(main())
