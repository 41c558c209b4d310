"""The live page on the loopback interface: this folder's page and its state, nothing else.

No path of a request names a file, and a request for another host's name (of a page elsewhere that
had its name point here) is refused.
"""

import json
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, final

from airtune.errors import AirtuneError, InputError
from airtune.report import html
from airtune.watching.pages import live_page, read_state, state_json, version_of

LOOPBACK = "127.0.0.1"
_POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'unsafe-inline'; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'"
)


@final
class WatchServer:
    """Serves one folder until it is closed; `port` 0: a free one."""

    def __init__(self, folder: Path, port: int = 0) -> None:
        self._folder = folder
        self._drawing = threading.Lock()
        self._page: tuple[str, str] = ("", "")
        try:
            self._server = ThreadingHTTPServer((LOOPBACK, port), _handler(self))
        except OSError as error:
            remedy = "leave it out for a free one"
            raise InputError(
                "--port", f"{port} ({error.strerror})", "a free port", remedy
            ) from None
        self._server.daemon_threads = True

    @property
    def address(self) -> str:
        """Where the page is."""
        return f"http://{LOOPBACK}:{self._server.server_port}/"

    @property
    def hosts(self) -> tuple[str, str]:
        """The names that a request may be for."""
        port = self._server.server_port
        return f"{LOOPBACK}:{port}", f"localhost:{port}"

    def serve(self) -> None:
        """Answer until `close`."""
        self._server.serve_forever(poll_interval=0.2)

    def stop(self) -> None:
        """End `serve`, from another thread."""
        self._server.shutdown()

    def close(self) -> None:
        """Give the port back."""
        self._server.server_close()

    def page(self) -> str:
        """The page, made again only where something has changed."""
        state = read_state(self._folder)
        with self._drawing:
            if self._page[0] != version_of(state):
                self._page = (version_of(state), live_page(state))
            return self._page[1]

    def state(self) -> str:
        """How far the run is, as JSON."""
        return json.dumps(state_json(read_state(self._folder)))

    @property
    def answers(self) -> dict[str, tuple[str, Callable[[], str]]]:
        """Path -> content type and what makes the content."""
        return {
            "/": ("text/html; charset=utf-8", self.page),
            "/state.json": ("application/json", self.state),
            f"/{html.SCRIPT}": ("text/javascript", html.script),
        }


def _handler(watch: WatchServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # the library's name
            if self.headers.get("Host") not in watch.hosts:
                self._answer(HTTPStatus.FORBIDDEN, "text/plain", "another host")
                return
            found = watch.answers.get(self.path)
            if found is None:
                self._answer(HTTPStatus.NOT_FOUND, "text/plain", "nothing here")
                return
            kind, make = found
            try:
                self._answer(HTTPStatus.OK, kind, make())
            except AirtuneError as error:
                self._answer(HTTPStatus.SERVICE_UNAVAILABLE, "text/plain", str(error))

        def _answer(self, status: HTTPStatus, kind: str, text: str) -> None:
            content = text.encode()
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Cache-Control", "no-store")
            self.send_header("Content-Security-Policy", _POLICY)
            self.send_header("X-Content-Type-Options", "nosniff")
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *arguments: Any) -> None:
            """Requests are not logged."""

    return Handler
