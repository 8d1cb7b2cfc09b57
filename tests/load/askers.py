"""Connections that ask without a pause, and write down what they were answered and when."""

import asyncio
import json
import random
import re
import threading
import time
from dataclasses import dataclass

from tests.load.world import PREDICTIONS

_LENGTH = re.compile(rb"content-length: (\d+)")


@dataclass(frozen=True)
class Answer:
    """What came back: when it was asked for and answered (monotonic seconds), status, head and body."""

    path: str
    asked: float
    answered: float
    status: int
    head: bytes
    body: bytes


def key_path(rows):
    """Ask for one key."""
    return f"GET {PREDICTIONS}/{random.randint(1, rows)} HTTP/1.1\r\n\r\n".encode()


def batch_of(rows, size=50):
    """Ask for several."""
    body = json.dumps({"keys": random.sample(range(1, rows + 1), size)}).encode()
    head = (
        f"POST {PREDICTIONS}:batchGet HTTP/1.1\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class Askers:
    """Askers for the length of the block: `requests` are functions that make a request, one connection each.

    `answers` are all of them, `errors` what no answer came of.
    """

    def __init__(self, port, requests):
        self.answers, self.errors = [], []
        self._port, self._requests = port, requests
        self._ending = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="askers")

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._ending.set()
        self._thread.join()

    async def _run(self):
        await asyncio.gather(*(self._ask(make) for make in self._requests))

    async def _ask(self, make):
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
            while not self._ending.is_set():
                request = make()
                asked = time.monotonic()
                writer.write(request)
                head = await reader.readuntil(b"\r\n\r\n")
                size = _LENGTH.search(head)
                body = await reader.readexactly(int(size.group(1)) if size else 0)
                path = request.split(b" ", 2)[1].decode()
                self.answers.append(Answer(path, asked, time.monotonic(), int(head[9:12]), head, body))
            writer.close()
        except Exception as error:
            self.errors.append(repr(error))
