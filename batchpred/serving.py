"""How `batchpred serve` starts the read API, and on which addresses it may answer."""

from __future__ import annotations

import gc
import re
import signal
import socket
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from ipaddress import ip_address
from typing import TYPE_CHECKING

from batchpred import console
from batchpred.workers import run_workers
from storage.errors import ConfigurationError

if TYPE_CHECKING:
    from api.exports import Form
    from batchpred.settings import Settings
    from storage.database import Database

# How long requests under way may take to end once the server was told to stop.
GRACEFUL_SECONDS = 10
_ORIGIN = re.compile(r"https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?|https?://\[[0-9a-fA-F:]+\](:[0-9]{1,5})?")


@dataclass(frozen=True)
class Options:
    """How to serve: where, in how many processes, with what remembered and written down, to whose pages."""

    host: str
    port: int
    workers: int
    cache_entries: int
    access_log: bool
    origins: tuple[str, ...] = ()


def serve(settings: Settings, options: Options) -> None:
    """Serve until a signal ends it. Raises ConfigurationError for an open address without a key."""
    from storage import api_keys

    database = settings.database()
    with database.errors("look for keys"), database.connect(purpose="serve") as connection:
        keyed = api_keys.any_exist(connection)
    host = options.host
    for origin in options.origins:
        if not _ORIGIN.fullmatch(origin):
            raise ConfigurationError(
                f"--allow-origin {origin} is no origin: it reads https://HOST or https://HOST:PORT, without a path"
            )
    if not keyed and not _is_loopback(host):
        raise ConfigurationError(
            f"--host {host} can be reached by other machines, and without a key anybody could read: make one "
            "with batchpred keys create NAME, or stay on 127.0.0.1"
        )
    access = "readers need an API key" if keyed else "no key was made yet, so for this machine only"
    listener = _listen(host, options.port)
    shown = f"[{host}]" if ":" in host else host
    console.err.print(
        f"read API on http://{shown}:{options.port}, {access}; Ctrl-C ends it",
        soft_wrap=True,
    )
    run_workers(options.workers, lambda: _answer(database, options, listener))


def _answer(database: Database, options: Options, listener: socket.socket) -> None:
    """Answer on the socket in this process until a signal ends it."""
    import uvicorn

    from api.app import create_app
    from api.wire import protocol_of

    app = create_app(
        database,
        keyless=_is_loopback(options.host),
        cache_entries=options.cache_entries,
        access_log=options.access_log,
        origins=options.origins,
        exports=arrow_exports(),
    )
    config = uvicorn.Config(
        app,
        http=protocol_of(app),
        log_config=None,
        access_log=False,
        # Nothing here depends on who a proxy says is calling, and looking costs every request.
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=GRACEFUL_SECONDS,
    )
    # What is loaded by now stays: looking through it for garbage again and again stops all answers for 40 ms.
    gc.collect()
    gc.freeze()
    # uvicorn ends well on SIGTERM and then raises it again for whoever was there before: exit code 0, not -15.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    uvicorn.Server(config).run(sockets=[listener])


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        raise ConfigurationError(
            f"cannot listen on {host} port {port}: {error.strerror}; choose another with --port"
        ) from None
    listener.set_inheritable(True)
    return listener


def arrow_exports() -> dict[str, Form]:
    """Return the forms that need pyarrow, where it is installed: a server for look-ups alone goes without."""
    from api.exports import ARROW, PARQUET

    if find_spec("pyarrow") is None or find_spec("adbc_driver_postgresql") is None:
        return {}
    from storage import arrow_export

    return {ARROW: arrow_export.arrow, PARQUET: arrow_export.parquet}


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
