"""A network that fails: a TCP proxy between a runner and PostgreSQL that resets, falls silent, or loses one reply.

It keeps acknowledging what it swallows, as a dead machine behind a living router does: neither keepalives nor
tcp_user_timeout see that anything is wrong.
"""

import asyncio
import socket
import struct
import threading
from contextlib import suppress

from psycopg import conninfo

# psycopg ends a transaction with this message alone, so it arrives in a piece of its own.
_COMMIT = b"Q\0\0\0\x0bCOMMIT\0"
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Proxy:
    """Stands before the server of `url` for the length of a `with` block; `address` is the way through it.

    It strikes when the `at`-th COMMIT, from 0, comes along (None: never by itself), by what `does` says:

        reset    every connection there is is reset, and the COMMIT never arrives; new connections get through
        lose     the COMMIT is done, and a reset comes instead of its reply
        mute     the COMMIT is done, and on this connection nothing ever comes any more
        silence  no byte gets through anywhere, in either direction, until `heal` is called

    `struck` is set when it has.
    """

    def __init__(self, url, at, does):
        parts = conninfo.conninfo_to_dict(url)
        self._server = parts.get("host") or "127.0.0.1", int(parts.get("port") or 5432)
        self._parts = parts
        self._at, self._does = at, does
        self._links = set()
        self._commits = 0
        self._lock = threading.Lock()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="chaos-proxy")
        self.struck = threading.Event()

    def __enter__(self):
        self._thread.start()
        port = self._do(self._listen())
        # In the clear, or a COMMIT could not be told from anything else.
        plain = {"sslmode": "disable", "gssencmode": "disable"}
        query = "&".join(f"{name}={value}" for name, value in plain.items())
        user, password = self._parts["user"], self._parts.get("password", "")
        self.address = f"postgresql://{user}:{password}@127.0.0.1:{port}/{self._parts['dbname']}?{query}"
        return self

    def __exit__(self, *_):
        self._do(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def fall_silent(self):
        """Let no byte through any more."""
        self._loop.call_soon_threadsafe(self._through.clear)

    def mute(self):
        """Let nothing come back any more on the connections there are."""
        for link in list(self._links):
            link.is_struck = True

    def heal(self):
        """Let through what waited, and what comes."""
        self._do(self._heal())

    def _do(self, work):
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=30)

    async def _listen(self):
        self._through = asyncio.Event()
        self._through.set()
        self._listener = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self._listener.sockets[0].getsockname()[1]

    async def _close(self):
        self._listener.close()
        for task in [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]:
            task.cancel()
            with suppress(asyncio.CancelledError, OSError):
                await task

    async def _heal(self):
        self._through.set()

    async def _serve(self, reader, writer):
        try:
            server_reader, server_writer = await asyncio.open_connection(*self._server)
        except OSError:
            writer.transport.abort()
            return
        link = _Link(writer, server_writer)
        self._links.add(link)
        try:
            await asyncio.gather(self._upwards(link, reader), self._downwards(link, server_reader))
        except (OSError, asyncio.CancelledError):
            pass  # of a task that ends cancelled, asyncio would print a traceback
        finally:
            self._links.discard(link)
            link.close()

    async def _upwards(self, link, reader):
        while data := await reader.read(65536):
            if data.endswith(_COMMIT):
                self._commits += 1
                if self._at is not None and self._commits == self._at + 1:
                    self._strike(link)
            await self._through.wait()
            link.server.write(data)
            await link.server.drain()
        link.server.close()

    def _strike(self, link):
        if self._does == "reset":
            for each in list(self._links):
                each.reset()
        elif self._does == "silence":
            self._through.clear()
        else:
            link.is_struck = True
            return  # when the server has answered
        self.struck.set()

    async def _downwards(self, link, reader):
        while data := await reader.read(65536):
            await self._through.wait()
            if link.is_struck:  # the server has answered, so what was asked is done
                self.struck.set()
                if self._does == "lose":
                    link.reset()
                    return
                continue
            link.client.write(data)
            await link.client.drain()
        if not link.is_struck:
            link.client.close()


class _Link:
    """One connection through the proxy: its two ends."""

    def __init__(self, client, server):
        self.client, self.server = client, server
        self.is_struck = False

    def reset(self):
        for end in (self.client, self.server):
            with suppress(OSError):
                end.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            end.transport.abort()

    def close(self):
        for end in (self.client, self.server):
            end.transport.abort()
