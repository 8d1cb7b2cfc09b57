"""Receivers of messages: a real HTTP server and a mail server on free ports of this machine, which keep all."""

import http.server
import json
import socketserver
import threading
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from tests.integration.serving import serving


@dataclass
class Receiver:
    """What arrived, in order: (method, path, headers, body); and how it is answered."""

    url: str
    requests: list = field(default_factory=list)
    status: int = 200
    headers: dict = field(default_factory=dict)
    hang: threading.Event | None = None

    @property
    def types(self):
        """The types of the webhooks that arrived."""
        return [json.loads(body)["type"] for _, _, _, body in self.requests]

    @property
    def paths(self):
        return [(method, path) for method, path, _, _ in self.requests]


@contextmanager
def listening(tls=None):
    """Listen for the length of the block."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    scheme = "http"
    if tls is not None:
        scheme, server.socket = "https", tls.wrap_socket(server.socket, server_side=True)
    server.receiver = Receiver(f"{scheme}://127.0.0.1:{server.server_address[1]}")
    with serving(server):
        try:
            yield server.receiver
        finally:
            if server.receiver.hang:
                server.receiver.hang.set()


@contextmanager
def mailbox():
    """Take mail for the length of the block: yields the port and the list of what arrives."""
    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Smtp)
    server.mails = []
    with serving(server):
        yield server.server_address[1], server.mails


class _Smtp(socketserver.StreamRequestHandler):
    def handle(self):
        self.wfile.write(b"220 here\r\n")
        while line := self.rfile.readline():
            self.wfile.write(b"354 go on\r\n" if line.upper().startswith(b"DATA") else b"250 yes\r\n")
            if line.upper().startswith(b"DATA"):
                self.server.mails.append(b"".join(iter(self.rfile.readline, b".\r\n")).decode())
                self.wfile.write(b"250 yes\r\n")


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        receiver = self.server.receiver
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        receiver.requests.append((self.command, self.path, dict(self.headers), body))
        if receiver.hang:
            receiver.hang.wait(20)
        self.send_response(receiver.status)
        for name, value in receiver.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_POST  # noqa: N815  # the server looks for this name

    def log_message(self, *_):
        """Say nothing."""

    def handle(self):
        # A client that has gone, or one that found the certificate wanting.
        with suppress(OSError):
            super().handle()
