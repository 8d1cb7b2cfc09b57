"""Who is told about a job, of what, and how: the job file's `notify` list."""

from __future__ import annotations

import base64
import re
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, model_validator

from jobs.jobspec.values import Strict

Kind = Literal["failed", "blocked", "recovered", "late", "published"]
TROUBLES: tuple[Kind, ...] = ("failed", "blocked", "late")
# 128 bits: what a secret must hold that nobody guesses from one signed message.
_SECRET_BYTES = 16


def _http_url(value: SecretStr) -> SecretStr:
    # The address may hold a token, so no message repeats it.
    text = value.get_secret_value()
    try:
        parts = urlsplit(text)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        good, parts = False, urlsplit("")
    if not good or not re.fullmatch(r"[!-~]+", text) or parts.fragment:
        raise ValueError(
            "this is no address of a web server; it reads https://HOST/PATH, without spaces and #"
        )
    if parts.username or parts.password:
        raise ValueError("a user and password in the address are not sent; put a token in its path or query")
    return value


def _apprise_url(value: SecretStr) -> SecretStr:
    if not re.fullmatch(r"[a-z][a-z0-9+.-]*://\S+", value.get_secret_value(), re.IGNORECASE):
        raise ValueError("this is no Apprise address; it reads SERVICE://…, such as mailto:// or slack://")
    return value


def _signing_secret(value: SecretStr) -> SecretStr:
    try:
        key = signing_key(value.get_secret_value())
    except ValueError:
        raise ValueError("a secret that begins with whsec_ goes on in Base64") from None
    if len(key) < _SECRET_BYTES:
        raise ValueError(
            f"a secret has {_SECRET_BYTES} bytes at least; make one with: echo whsec_$(openssl rand -base64 32)"
        )
    return value


def signing_key(secret: str) -> bytes:
    """Return the key that a secret stands for: Base64 after `whsec_` as in Standard Webhooks, else its bytes."""
    if secret.startswith("whsec_"):
        return base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    return secret.encode()


class Target(Strict):
    """Who is told: one of webhook, apprise and ping."""

    webhook: Annotated[SecretStr, AfterValidator(_http_url)] | None = Field(
        None, description="An address that JSON is posted to, signed as in Standard Webhooks."
    )
    secret: Annotated[SecretStr, AfterValidator(_signing_secret)] | None = Field(
        None, description="What a webhook is signed with: whsec_ and Base64, or 16 characters or more."
    )
    apprise: Annotated[SecretStr, AfterValidator(_apprise_url)] | None = Field(
        None, description="E-mail, Slack and others by Apprise's address; needs batchpred[notify]."
    )
    ping: Annotated[SecretStr, AfterValidator(_http_url)] | None = Field(
        None, description="A healthcheck: fetched on success, posted to with /fail added on trouble."
    )
    events: Annotated[list[Kind], Field(min_length=1)] | None = Field(
        None, description="What is told; all troubles and recovery, or for a ping publishes and all troubles."
    )
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 _.:-]{0,59}$")] | None = Field(
        None, description="What lists and logs call it; made of kind and host if left out."
    )

    @model_validator(mode="after")
    def _one_of_three(self) -> Target:
        given = [name for name in ("webhook", "apprise", "ping") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError("give one of webhook, apprise and ping")
        if (self.secret is not None) != (self.webhook is not None):
            raise ValueError(
                "a webhook needs a secret to be signed with, such as secret: ${HOOK_SECRET}"
                if self.webhook
                else f"secret: only a webhook is signed, not {given[0]}"
            )
        return self

    @property
    def kind(self) -> Literal["webhook", "apprise", "ping"]:
        """How it is told."""
        return "webhook" if self.webhook else "apprise" if self.apprise else "ping"

    @property
    def address(self) -> str:
        """Where it is told; may hold a secret."""
        address = self.webhook or self.apprise or self.ping
        assert address is not None  # noqa: S101  # _one_of_three
        return address.get_secret_value()

    @property
    def label(self) -> str:
        """What it is called, without anything secret: the host of an Apprise address may be a token."""
        if self.name is not None:
            return self.name
        parts = urlsplit(self.address)
        return f"apprise {parts.scheme}" if self.apprise else f"{self.kind} {parts.hostname}"

    @property
    def wanted(self) -> tuple[Kind, ...]:
        """The kinds of event it is told."""
        if self.events is not None:
            return tuple(self.events)
        return ("published", *TROUBLES) if self.ping else (*TROUBLES, "recovered")

    @property
    def secrets(self) -> list[str]:
        """What must appear in no message, log or list."""
        return [self.address, *([self.secret.get_secret_value()] if self.secret else [])]


def labels_differ(targets: list[Target]) -> list[Target]:
    """Return the targets, or raise ValueError where two have one name: deliveries are kept by it."""
    labels = [target.label for target in targets]
    twice = next((label for label in labels if labels.count(label) > 1), None)
    if twice:
        raise ValueError(f"notify: two targets are called {twice!r}; give each a name of its own")
    return targets
