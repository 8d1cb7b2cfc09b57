"""How `batchpred serve` starts the read API, and on which addresses it may answer."""

from __future__ import annotations

import signal
from ipaddress import ip_address
from typing import TYPE_CHECKING

from batchpred import console
from storage.errors import ConfigurationError

if TYPE_CHECKING:
    from batchpred.settings import Settings

# How long requests under way may take to end once the server was told to stop.
GRACEFUL_SECONDS = 10


def serve(settings: Settings, host: str, port: int, *, cache_entries: int, access_log: bool) -> None:
    """Serve until a signal ends it. Raises ConfigurationError for an open address without a key."""
    import uvicorn

    from api.app import create_app
    from storage import api_keys

    database = settings.database()
    with database.errors("look for keys"), database.connect(purpose="serve") as connection:
        keyed = api_keys.any_exist(connection)
    if not keyed and not _is_loopback(host):
        raise ConfigurationError(
            f"--host {host} can be reached by other machines, and without a key anybody could read: make one "
            "with batchpred keys create NAME, or stay on 127.0.0.1"
        )
    access = "readers need an API key" if keyed else "no key was made yet, so for this machine only"
    app = create_app(database, keyless=_is_loopback(host), cache_entries=cache_entries, access_log=access_log)
    console.err.print(
        f"read API on http://{host}:{port}/docs, {access}; Ctrl-C ends it", markup=False, soft_wrap=True
    )
    # uvicorn ends well on SIGTERM and then raises it again for whoever was there before: that is the end we want.
    signal.signal(signal.SIGTERM, lambda *_: None)
    uvicorn.run(
        app,
        host=host,
        port=port,
        log_config=None,
        access_log=False,
        # Nothing here depends on who a proxy says is calling, and looking costs every request.
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=GRACEFUL_SECONDS,
    )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
