"""A server of the standard library that answers in a thread, for the length of a block."""

import threading
from contextlib import contextmanager


@contextmanager
def serving(server):
    """Serve until the block ends, and then close; yields the server."""
    # Asked to stop it ends within this poll; the library's own, half a second, would cost each test as much.
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
