"""How `batchpred serve` starts the read API, and on which addresses it may answer."""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING

from batchpred import console
from storage.errors import ConfigurationError

if TYPE_CHECKING:
    from batchpred.settings import Settings


def serve(settings: Settings, host: str, port: int) -> None:
    """Serve until a signal ends it. Raises ConfigurationError for an open address without a key."""
    import uvicorn

    from api.app import create_app

    if settings.api_key is None and not _is_loopback(host):
        raise ConfigurationError(
            f"--host {host} can be reached by other machines, and without a key anybody could read: set "
            "BATCHPRED_API_KEY, or stay on 127.0.0.1"
        )
    access = "readers need the API key" if settings.api_key else "without a key, for this machine only"
    app = create_app(settings.database(), api_key=settings.api_key)
    console.err.print(f"read API on http://{host}:{port}/docs, {access}; Ctrl-C ends it")
    uvicorn.run(app, host=host, port=port, log_level="warning", server_header=False)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
