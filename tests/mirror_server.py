"""A real web server on this machine that plays a mirror, in good and in bad health."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Answer = Callable[[BaseHTTPRequestHandler], None]


class Mirror:
    """A running server: its address, and the paths it was asked for."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.asked: list[str] = []


@contextmanager
def mirror(answer: Answer) -> Iterator[Mirror]:
    """Serve on a free port until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            running.asked.append(self.path)
            with suppress(ConnectionError):  # the client has given this mirror up
                answer(self)

        def log_message(self, *arguments: object) -> None:
            """Keep the test's output readable."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.block_on_close = False
    running = Mirror(f"http://127.0.0.1:{server.server_port}/")
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield running
    finally:
        server.shutdown()
        server.server_close()


def sends(content: bytes, *, status: int = 200, announced: int | None = None) -> Answer:
    """Answer with this content; `announced` is the length that the header tells, if it lies."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        request.send_header("Content-Length", str(len(content) if announced is None else announced))
        request.end_headers()
        request.wfile.write(content)

    return answer


def sends_files(files: dict[str, bytes]) -> Answer:
    """Answer with the file of that name, or 404."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        content = files.get(request.path.rpartition("/")[2])
        sends(content or b"no such file", status=200 if content else 404)(request)

    return answer


def stays_mute(request: BaseHTTPRequestHandler) -> None:
    """Accept the request and never answer."""
    time.sleep(5)


def trickles(request: BaseHTTPRequestHandler) -> None:
    """Answer with a byte now and then."""
    request.send_response(200)
    request.end_headers()
    for _ in range(50):
        request.wfile.write(b"x")
        request.wfile.flush()
        time.sleep(0.1)


def never_ends(request: BaseHTTPRequestHandler) -> None:
    """Send without end, and without saying how much."""
    request.send_response(200)
    request.end_headers()
    block = bytes(1 << 20)
    for _ in range(1000):
        request.wfile.write(block)
