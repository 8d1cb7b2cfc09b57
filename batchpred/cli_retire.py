"""`batchpred models retire`: one version, or those that a rule finds stale."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from batchpred import console
from batchpred.cli_options import Json
from batchpred.settings import Settings

if TYPE_CHECKING:
    from storage.database import Connection
    from storage.retirement import Rule


@dataclass(frozen=True)
class _Stale:
    """Names and the rules they are held against; what stands before the reason in the history."""

    rules: dict[str, Rule]
    why: str | None


def retire(
    what: Annotated[
        str | None,
        typer.Argument(metavar="REF|NAME", help="NAME/N; or NAME with --older-than, --metric or --stale."),
    ] = None,
    why: Annotated[str | None, typer.Option(help="Recorded, and told to who asks for the version.")] = None,
    undo: Annotated[bool, typer.Option("--undo", help="Take a retired version back.")] = False,
    older_than: Annotated[
        str | None, typer.Option(metavar="AGE", help="Versions pushed longer ago, such as 180d.")
    ] = None,
    metric: Annotated[
        str | None, typer.Option(metavar="RULE", help="Versions whose metric is so, such as 'auc<0.7'.")
    ] = None,
    keep: Annotated[int, typer.Option(min=0, help="Leave the newest KEEP versions alone.")] = 0,
    stale: Annotated[
        bool,
        typer.Option("--stale", help="By the rules of gates.yaml (`retire`), of NAME or of every model."),
    ] = False,
    gates: Annotated[
        Path | None, typer.Option(help="The file with the rules; gates.yaml here.", exists=True)
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Tell what a rule finds, change nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Take versions out of use: no alias can point at them and no run score with them; never one in use."""
    from storage import model_life, registry, retirement

    by_words = older_than is not None or metric is not None
    by_rule = stale or by_words
    _refuse(
        {
            "--stale takes its rules from gates.yaml: leave the others out, or --stale": stale
            and (by_words or keep > 0),
            "--undo takes back one version: batchpred models retire NAME/N --undo": undo
            and (by_rule or why is not None),
            "name a version, NAME/N, or retire what gates.yaml finds stale with --stale": what is None
            and not stale,
            "--dry-run and --keep are for rules: --stale, --older-than, --metric": (dry_run or keep > 0)
            and not by_rule,
            f"which versions of {what}? Name one, {what}/N, or a rule: --older-than, --metric or --stale": (
                not by_rule and what is not None and not {"/", "@"} & set(what)
            ),
        }
    )
    rule = retirement.Rule(_age(older_than), _rule(metric), keep)
    ref = None if by_rule or what is None else registry.ModelRef.parse(what)
    settings = Settings.read()
    database = settings.database()
    changed: list[tuple[str, str | None]] = []
    with database.errors("retire"), database.connect(purpose="retire", as_writer=True) as connection:
        if ref is not None:
            version, was_changed = (
                model_life.take_back(connection, ref)
                if undo
                else model_life.retire(connection, ref, why or "no reason given")
            )
            changed = [(str(version), version.retired_why)] if was_changed else []
        else:
            asked = _of_gates(settings, connection, gates, what) if stale else _Stale({str(what): rule}, why)
            for name, each in asked.rules.items():
                if dry_run:
                    found = retirement.stale(connection, name, each)
                else:
                    found = retirement.retire_stale(connection, name, each, why=why or asked.why)
                changed += [(str(version), reason) for version, reason in found]
    if as_json:
        kind = "undone" if undo else "stale" if dry_run else "retired"
        console.print_json({kind: [name for name, _ in changed], "reasons": dict(changed)})
        return
    if not changed:
        console.out.print("nothing to do")
    for name, reason in changed:
        said = "is in use again" if undo else f"{'would be' if dry_run else 'is'} retired: {reason}"
        console.out.print(f"{name} {said}", markup=False)


def _refuse(mistakes: dict[str, bool]) -> None:
    from storage.errors import ConfigurationError

    for said, is_made in mistakes.items():
        if is_made:
            raise ConfigurationError(said)


def _of_gates(settings: Settings, connection: Connection, gates: Path | None, name: str | None) -> _Stale:
    """The rules of a gates file, for one model or for every one that is there."""
    from jobs.gates import FILE, load_gates
    from storage import registry
    from storage.errors import ConfigurationError

    path = gates or Path(FILE)
    if not path.is_file():
        raise ConfigurationError(f"there is no {FILE} in this folder, whose `retire` says what is stale")
    asked = load_gates(path, settings.environ)
    names = [name] if name else sorted({each.name for each in registry.versions(connection)})
    rules = {each: found.rule for each in names if (found := asked.of(each).retire) is not None}
    if not rules and name:
        raise ConfigurationError(f"{path.name} has no `retire` for {name}")
    return _Stale(rules, f"by {path.name}")


def _age(text: str | None) -> timedelta | None:
    from storage.errors import ConfigurationError

    if text is None:
        return None
    if text[:-1].isdecimal() and text[-1] in "hdw":
        with suppress(OverflowError):  # of millions of years
            return timedelta(**{{"h": "hours", "d": "days", "w": "weeks"}[text[-1]]: int(text[:-1])})
    raise ConfigurationError(f"--older-than {text!r} is no age; write a number and h, d or w, such as 180d")


def _rule(text: str | None) -> dict[str, tuple[float | None, float | None]]:
    from storage.errors import ConfigurationError

    if text is None:
        return {}
    for sign in "<>":
        name, found, bound = text.partition(sign)
        try:
            if found and name.strip():
                limit = float(bound)
                return {name.strip(): (limit, None) if sign == "<" else (None, limit)}
        except ValueError:
            break
    raise ConfigurationError(f"--metric {text!r} is no rule; write 'auc<0.7' or 'rmse>2.5'")
