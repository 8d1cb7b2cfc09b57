"""One GET over HTTP: the body, or an error that tells an outage from a refusal; a login stays with its host."""

from __future__ import annotations

import http.client
import json
import re
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jobs.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Mapping

_SECONDS = 30.0
_LARGEST = 2**31
_SAID = ("x-repo-commit", "x-linked-etag")


class RegistryOutageError(ModelError):
    """A model registry or object store does not answer."""

    is_transient = True


@dataclass(frozen=True)
class Answer:
    """A body, and what the first server that said so told of it: commit and digest, by lower-case header."""

    body: bytes
    said: Mapping[str, str]


def server_address(text: str) -> urllib.parse.SplitResult | None:
    """Split the address of a server; None where it is none that is reached by http or https."""
    try:
        parts = urllib.parse.urlsplit(text)
        is_good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return None
    return parts if is_good else None


def get(url: str, login: Mapping[str, str], *, who: str, hints: Mapping[int, str]) -> Answer:
    """Fetch an address; redirects are followed, and take the login along to the same host only.

    `who` names the server in messages, `hints` says by status what to do about a refusal. Raises
    RegistryOutageError where it does not answer or answers 5xx, and ModelError, in its words, for other refusals.
    """
    redirects = _Redirects()
    request = urllib.request.Request(url, headers=dict(login))  # noqa: S310  # callers take http and https alone
    try:
        with urllib.request.build_opener(redirects).open(request, timeout=_SECONDS) as answer:
            body: bytes = answer.read(_LARGEST + 1)
            if answer.length and len(body) <= _LARGEST:  # a read of so many bytes does not tell by itself
                raise http.client.IncompleteRead(body, answer.length)
            redirects.note(answer.headers)
    except urllib.error.HTTPError as error:
        with error:
            said = error.headers.get("X-Error-Message") or _words(error.read(10_000))
        if error.code >= 500:
            raise RegistryOutageError(f"{who} answers {error.code}: {said[:200]}") from None
        raise ModelError(f"{who} refuses ({error.code}): {said[:200]}{hints.get(error.code, '')}") from None
    except (urllib.error.URLError, OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or str(error) or type(error).__name__
        raise RegistryOutageError(f"{who} does not answer: {reason}") from None
    if len(body) > _LARGEST:
        raise ModelError(f"{who} sent more than 2 GiB for one file")
    return Answer(body, redirects.said)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follow redirects without handing the login to another host, or to the same one in clear text."""

    def __init__(self) -> None:
        self.said: dict[str, str] = {}

    def note(self, headers: Any) -> None:
        """Keep what is told of the file, unless an earlier server told it: it is the one that was asked."""
        for name in _SAID:
            if value := headers.get(name):
                self.said.setdefault(name, value)

    def redirect_request(  # noqa: PLR0917  # urllib calls it so
        self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> Any:
        self.note(headers)
        request = super().redirect_request(req, fp, code, msg, headers, newurl)
        was, now = urllib.parse.urlsplit(req.full_url), urllib.parse.urlsplit(newurl)
        if now.scheme not in ("http", "https"):  # urllib would follow to FTP
            raise ModelError(
                f"{was.hostname} redirects to {now.scheme}://, and files are fetched by HTTP alone"
            )
        is_exposed = was.scheme == "https" and now.scheme != "https"
        if request is not None and (was.netloc != now.netloc or is_exposed):
            request.remove_header("Authorization")
        return request


def _words(body: bytes) -> str:
    try:
        said = str(json.loads(body)["message"])
    except (ValueError, KeyError, TypeError):
        said = re.sub(r"<[^>]*>|\s+", " ", body.decode("utf-8", "replace")).strip() or "no reason given"
    return said.splitlines()[0]
