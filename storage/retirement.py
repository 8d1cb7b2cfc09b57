"""Which versions are retired by rule: past an age, or with a metric out of bounds; never one that is in use."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from storage.model_life import ModelNeededError, earlier_targets, in_use, retire
from storage.registry import ModelRef, resolve, versions

if TYPE_CHECKING:
    from collections.abc import Mapping

    from storage.database import Connection
    from storage.registry import ModelVersion


@dataclass(frozen=True)
class Rule:
    """When a version is stale: pushed longer ago than an age, or a metric below a least or above a most.

    `metrics` is {name: (least, most)}, None where there is no bound. A version without the metric is not stale by
    it. The newest `keep` versions of a name never are.
    """

    older_than: timedelta | None = None
    metrics: Mapping[str, tuple[float | None, float | None]] = field(default_factory=dict)
    keep: int = 0

    def reason(self, version: ModelVersion, now: datetime) -> str | None:
        """Say why a version is stale, or None where it is not."""
        if self.older_than is not None and now - version.created_at > self.older_than:
            return f"pushed on {version.created_at:%Y-%m-%d}, longer ago than {_said(self.older_than)}"
        for name, (least, most) in self.metrics.items():
            value = version.metrics.get(name)
            if value is not None and least is not None and value < least:
                return f"{name} is {value:g}, below {least:g}"
            if value is not None and most is not None and value > most:
                return f"{name} is {value:g}, above {most:g}"
        return None


def stale(connection: Connection, name: str, rule: Rule) -> list[tuple[ModelVersion, str]]:
    """List a name's stale versions with the reason, newest first.

    Left out are retired ones, those in use, and those that an alias would roll back to. Raises ModelNotFoundError
    for an unknown name.
    """
    known = versions(connection, name)
    if not known:
        resolve(connection, ModelRef(name, alias="champion"))  # says what there is instead
    aliases = {alias for each in known for alias in each.aliases}
    needed = {back for alias in aliases for back in earlier_targets(connection, name, alias)[:1]}
    now = datetime.now(UTC)
    return [
        (each, reason)
        for each in known[rule.keep :]
        if (reason := rule.reason(each, now))
        and not (each.retired_at or each.version in needed or in_use(connection, each))
    ]


def retire_stale(
    connection: Connection, name: str, rule: Rule, *, why: str | None = None
) -> list[tuple[ModelVersion, str]]:
    """Retire a name's stale versions; return them with the reason that is on record, after `why`."""
    done = []
    for each, reason in stale(connection, name, rule):
        said = f"{why}: {reason}" if why else reason
        try:
            version, changed = retire(connection, ModelRef(name, version=each.version), said)
        except ModelNeededError:  # somebody has promoted it meanwhile
            continue
        if changed:
            done.append((version, said))
    return done


def _said(age: timedelta) -> str:
    return f"{age.days}d" if age == timedelta(days=age.days) else f"{age.total_seconds() / 3600:g}h"
