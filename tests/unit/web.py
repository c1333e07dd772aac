"""A web server on this machine: pictures, and everything that stands on the web in their place."""

import io
import struct
import threading
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
from PIL import Image


def picture(number: int, size: tuple[int, int] = (48, 32), kind: str = "JPEG") -> bytes:
    """Return a small picture that no other number has."""
    array = np.random.default_rng(number).integers(0, 256, (size[1] // 8, size[0] // 8, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(array).resize(size).save(stream, kind)
    return stream.getvalue()


def bomb(side: int = 20_000) -> bytes:
    """Return a PNG of few bytes and 400 million pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    packer, row = zlib.compressobj(9), bytes(side // 8 + 1)
    rows = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


class Web(ThreadingHTTPServer):
    """Attributes: `hits` counts requests by path; `delay` is how long (s) each picture takes."""

    daemon_threads, request_queue_size = True, 512

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.hits: Counter[str] = Counter()
        self.delay = 0.0
        self.bomb = bomb()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/{path}"

    def handle_error(self, *_: object) -> None:
        """Clients that go away are no fault here."""


class _Handler(BaseHTTPRequestHandler):
    server: Web

    def do_GET(self) -> None:
        self.server.hits[self.path.strip("/")] += 1
        kind, _, number = self.path.strip("/").partition("/")
        getattr(self, f"_{kind}")(int(number))

    def _send(self, data: bytes, status: int = 200, length: int | None = None, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(data) if length is None else length))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)

    def _ok(self, number: int) -> None:
        time.sleep(self.server.delay)
        self._send(picture(number))

    def _png(self, number: int) -> None:
        self._send(picture(number, kind="PNG"))

    def _deep(self, number: int) -> None:
        """A picture of 16 bits: from black to white."""
        stream = io.BytesIO()
        Image.fromarray(np.linspace(0, 65535, 64 * 64).astype(np.uint16).reshape(64, 64)).save(stream, "PNG")
        self._send(stream.getvalue())

    def _missing(self, number: int) -> None:
        self._send(b"not here", 404)

    def _forbidden(self, number: int) -> None:
        self._send(b"not for you", 403)

    def _flaky(self, number: int) -> None:
        """Fail at first; the tries of the first round come too early."""
        early = self.server.hits[f"flaky/{number}"] <= 2
        self._send(b"later", 503) if early else self._send(picture(number))

    def _silent(self, number: int) -> None:
        time.sleep(2)

    def _drip(self, number: int) -> None:
        self.send_response(200)
        self.end_headers()
        for byte in picture(number):
            self.wfile.write(bytes([byte]))
            time.sleep(0.2)

    def _short(self, number: int) -> None:
        data = picture(number)
        self._send(data[: len(data) // 2], length=len(data))

    def _cut(self, number: int) -> None:
        self._send(picture(number)[:-40])

    def _html(self, number: int) -> None:
        self._send(b"<html><body>This picture has moved.</body></html>", Content_Type="text/html")

    def _moved(self, number: int) -> None:
        self._send(b"", 301, Location=f"/ok/{number}")

    def _circle(self, number: int) -> None:
        self._send(b"", 302, Location=f"/circle/{number}")

    def _noai(self, number: int) -> None:
        self._send(picture(number), X_Robots_Tag="noai")

    def _bomb(self, number: int) -> None:
        self._send(self.server.bomb)

    def _thin(self, number: int) -> None:
        self._send(picture(number, (3000, 8)))

    def _endless(self, number: int) -> None:
        self._send(bytes(3_000_000))

    def _empty(self, number: int) -> None:
        self._send(b"")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def serving() -> Iterator[Web]:
    web = Web()
    thread = threading.Thread(target=web.serve_forever, daemon=True)
    thread.start()
    try:
        yield web
    finally:
        web.shutdown()
        web.server_close()
