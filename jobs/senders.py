"""How one message reaches one target: a signed webhook, a healthcheck's ping, or whatever Apprise speaks.

Each attempt is bounded in time, checks the certificate, and follows no redirect: a message goes where the job
file says and nowhere else. Proxies of the environment (HTTPS_PROXY) are used as by every other program.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
import json
import logging
import re
import ssl
import threading
import time
import urllib.request
from typing import TYPE_CHECKING, Any
from urllib.error import URLError
from urllib.parse import urlsplit, urlunsplit

from jobs.errors import JobError
from jobs.jobspec.notify import TROUBLES, Target, signing_key

if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID

# For connecting, and for each wait on the other side. A receiver that takes longer is one to answer first and
# work afterwards, as Standard Webhooks asks of it.
TIMEOUT_SECONDS = 4.0
# Apprise's own connections take as long; some services need several, and mail a conversation.
_APPRISE_SECONDS = 15.0
# Its log is one for all threads, and what it says in one must not be taken for another's.
_one_at_a_time = threading.Lock()


class NotDeliveredError(JobError):
    """A message did not reach its target; the message says why, without address and secret."""


def send(
    target: Target, *, message_id: UUID, kind: str, happened_at: datetime, message: dict[str, Any]
) -> None:
    """Send a message to a target. Raises NotDeliveredError."""
    try:
        if target.kind == "webhook":
            _send_webhook(target, message_id, kind, happened_at, message)
        elif target.kind == "ping":
            _send_ping(target, kind, message)
        else:
            _send_apprise(target, kind, message)
    except NotDeliveredError:
        raise
    except ModuleNotFoundError:
        raise NotDeliveredError(
            'this needs Apprise; install it with: pip install "batchpred[notify]"'
        ) from None
    except Exception as error:  # noqa: BLE001  # a library's surprise is a message not delivered, whatever it is
        raise NotDeliveredError(_scrubbed(f"{type(error).__name__}: {error}", target)) from None


def sign(secret: str, message_id: str, timestamp: str, body: bytes) -> str:
    """Return the header webhook-signature: HMAC-SHA256 over id, time and body (Standard Webhooks, v1)."""
    signed = b".".join((message_id.encode(), timestamp.encode(), body))
    digest = hmac.new(signing_key(secret), signed, hashlib.sha256).digest()
    return "v1," + base64.b64encode(digest).decode()


def title(kind: str, message: dict[str, Any]) -> str:
    """Say in a line what happened."""
    what = {
        "failed": "failed",
        "blocked": "was blocked by a check",
        "late": "is late",
        "recovered": "is published again",
        "published": "is published",
    }
    return f"batchpred: {message['job']} {what.get(kind, kind)} ({message['interval']['date']})"


def text(message: dict[str, Any]) -> str:
    """Say the rest in a few lines: error, run, rows, model, and the command to look further."""
    rows, model, interval = message.get("rows"), message.get("model"), message["interval"]
    lines = [message.get("error"), f"interval: {interval['start']} to {interval['end']}"]
    if message.get("after"):
        lines.append(f"after: {', '.join(message['after'])} since {message['since']}")
    if message.get("run"):
        lines.append(f"run: {message['run']}")
        lines.append(
            "rows: " + ", ".join(f"{count} {name}" for name, count in rows.items()) if rows else None
        )
    if model:
        lines.append(f"model: {model['name']}" + (f"/{model['version']}" if model["version"] else ""))
    lines.append(f"look further: {message['look']}")
    return "\n".join(line for line in lines if line)


def _send_webhook(
    target: Target, message_id: UUID, kind: str, happened_at: datetime, message: dict[str, Any]
) -> None:
    document = {"type": f"batchpred.{kind}", "timestamp": happened_at.isoformat(), "data": message}
    body = json.dumps(document, ensure_ascii=False).encode()
    name, now = f"msg_{message_id.hex}", str(int(time.time()))
    assert target.secret is not None  # noqa: S101  # a webhook has one
    headers = {
        "Content-Type": "application/json",
        "webhook-id": name,
        "webhook-timestamp": now,
        "webhook-signature": sign(target.secret.get_secret_value(), name, now, body),
    }
    _request(target, urllib.request.Request(target.address, body, headers, method="POST"))  # noqa: S310  # http(s)


def _send_ping(target: Target, kind: str, message: dict[str, Any]) -> None:
    if kind not in TROUBLES:
        _request(target, urllib.request.Request(target.address))  # noqa: S310  # http(s) by the contract
        return
    parts = urlsplit(target.address)
    fail = urlunsplit(parts._replace(path=parts.path.rstrip("/") + "/fail"))
    body = f"{title(kind, message)}\n{text(message)}".encode()
    headers = {"Content-Type": "text/plain; charset=utf-8"}
    _request(target, urllib.request.Request(fail, body, headers, method="POST"))  # noqa: S310


def _request(target: Target, request: urllib.request.Request) -> None:
    """Make one request; anything but a 2xx is no delivery."""
    # Without the handlers that follow redirects and those for files and FTP.
    opener = urllib.request.OpenerDirector()
    context = ssl.create_default_context()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(context=context),
    ):
        opener.add_handler(handler)
    opener.addheaders = [("User-Agent", "batchpred")]
    try:
        with opener.open(request, timeout=TIMEOUT_SECONDS) as answer:
            status = answer.status
    except (OSError, http.client.HTTPException) as error:
        reason = error.reason if isinstance(error, URLError) else error
        said = getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
        raise NotDeliveredError(_scrubbed(f"no answer: {said}", target)) from None
    if 300 <= status < 400:
        raise NotDeliveredError(f"the receiver answered {status}; redirects are not followed")
    if not 200 <= status < 300:
        raise NotDeliveredError(f"the receiver answered {status}")


def _send_apprise(target: Target, kind: str, message: dict[str, Any]) -> None:
    import apprise

    # Apprise logs what may hold tokens, and to stderr where nobody listens: what it says is taken here.
    logging.getLogger("apprise").propagate = False
    asset = apprise.AppriseAsset(
        app_id="batchpred",
        app_desc="batchpred",
        app_url="",
        async_mode=False,
        http_redirects=False,
        service_timeout=_APPRISE_SECONDS,
    )
    sender = apprise.Apprise(asset=asset)
    trouble = apprise.NotifyType.FAILURE if kind in TROUBLES else apprise.NotifyType.SUCCESS
    capture = apprise.LogCapture(level=logging.WARNING, fmt="%(message)s")  # type: ignore[no-untyped-call]
    with _one_at_a_time, capture as said:
        done = sender.add(target.address) and sender.notify(
            title=title(kind, message), body=text(message), notify_type=trouble, body_format="text"
        )
        reasons = said.getvalue().split("\n")
    if not done:
        reason = " ".join(line.strip() for line in reasons if line.strip())
        scheme = urlsplit(target.address).scheme
        raise NotDeliveredError(_scrubbed(reason or f"Apprise could not send by {scheme}", target))


def _scrubbed(said: str, target: Target) -> str:
    """Take every part of the address out of a text: any of them may be a token or a password."""
    parts = re.split(r"[^A-Za-z0-9_~.-]+", target.address.partition("://")[2])
    for part in sorted({*target.secrets, *parts}, key=len, reverse=True):
        if len(part) > 2:
            said = said.replace(part, "***")
    return " ".join(said.split())[:300]
