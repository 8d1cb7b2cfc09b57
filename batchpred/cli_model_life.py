"""`batchpred models promote | rollback | delete | diff | pull | verify | history`: a version's life."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from batchpred import console, gating
from batchpred.cli_options import Json
from batchpred.cli_retire import retire
from batchpred.settings import Settings

if TYPE_CHECKING:
    from storage.database import Connection
    from storage.model_life import AliasMove

Ref = Annotated[str, typer.Argument(metavar="REF", help="NAME/N or NAME@ALIAS")]
Name = Annotated[str, typer.Argument(metavar="NAME")]
Alias = Annotated[str, typer.Option(help="The alias that moves.")]
Why = Annotated[str | None, typer.Option(help="Recorded with the move.")]


def add_to(app: typer.Typer) -> None:
    """Add the commands to `batchpred models`."""
    for command in (promote, rollback, history, diff, pull, verify, retire, delete):
        app.command()(command)


def promote(
    ref: Ref,
    alias: Alias = "champion",
    why: Why = None,
    gates: Annotated[
        Path | None,
        typer.Option(help="The gates it must pass; gates.yaml here if there is one.", exists=True),
    ] = None,
    override: Annotated[
        str | None, typer.Option(metavar="WHY", help="Promote although a gate fails; the reason is recorded.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Point an alias at a version: the next run of every job that names the alias scores with it.

    A version that fails a gate of gates.yaml, or lacks the signature it asks for, is not promoted, exit code 3.
    """
    from jobs.gates import require
    from storage import model_life, registry

    settings = Settings.read()
    database = settings.database()
    with database.errors("promote"), database.connect(purpose="promote", as_writer=True) as connection:
        version = registry.resolve(connection, registry.ModelRef.parse(ref), to_score=True)
        registry.check_name("alias", alias)
        gating.require_signed_version(settings, connection, version, gates)
        champion = gating.champion_of(connection, version.name, alias)
        if champion is None or champion.version != version.version:
            held = gating.hold_gates(
                settings,
                connection,
                version.name,
                label=str(version),
                metrics=version.metrics,
                data=lambda: registry.fetch(connection, version.sha256, settings.home / "models"),
                champion=champion,
                gates=gates,
                need_metrics=True,
            )
            gating.show_gates(held)
            if held:
                details = {**gating.as_details(held), **({"override": override} if override else {})}
                model_life.record(connection, version.name, version.version, "gates", details)
            if not override:
                require(str(version), held)
        began = time.monotonic()
        one = registry.ModelRef(version.name, version=version.version)
        move = model_life.promote(connection, one, alias, why=why or override)
        _say(move, time.monotonic() - began, as_json=as_json)
        gating.warn_of_drift(settings, connection, Path(), f"{version.name}@{alias}", version)


def rollback(
    name: Name,
    alias: Alias = "champion",
    to: Annotated[
        int | None, typer.Option(metavar="N", help="An earlier version; the one before if left out.")
    ] = None,
    canary: Annotated[
        bool, typer.Option("--canary", help="Withdraw the canary beside the alias instead; that stays.")
    ] = False,
    why: Why = None,
    as_json: Json = False,
) -> None:
    """Point an alias at what it pointed at before its last promotion; nothing is scored.

    With --canary the version that scores a share of the keys is withdrawn, and the alias stays where it is. What
    readers see stays until the next run; `batchpred rollback JOB` takes predictions back.
    """
    from storage import model_life

    if canary and to is not None:
        raise typer.BadParameter(
            "a canary is withdrawn, and no alias moved: leave --to out", param_hint="--to"
        )
    database = Settings.read().database()
    with database.errors("rollback"), database.connect(purpose="rollback", as_writer=True) as connection:
        if canary:
            _withdraw(connection, name, alias, why, as_json=as_json)
            return
        began = time.monotonic()
        move = model_life.rollback(connection, name, alias, to_version=to, why=why)
        _say(move, time.monotonic() - began, as_json=as_json)


def _withdraw(connection: Connection, name: str, alias: str, why: str | None, *, as_json: bool) -> None:
    from storage import canaries
    from storage.registry import ModelRef, resolve

    version = resolve(connection, ModelRef(name, alias=alias))
    canary = canaries.standing(connection, name, alias)
    if canary is None or not canaries.withdraw(connection, canary, why):
        raise canaries.NoCanaryError(f"{name}@{alias} has no canary; see: batchpred models history {name}")
    if as_json:
        console.print_json({"withdrawn": vars(canary), "version": version.version})
        return
    console.out.print(
        f"canary {canary} ({canary.percent} of the keys) is withdrawn; {name}@{alias} points at {version}, which "
        "scores every key from the next run on",
        soft_wrap=True,
    )


def history(
    name: Name,
    alias: Annotated[str | None, typer.Option(help="Only the moves of this alias.")] = None,
    on: Annotated[
        str | None,
        typer.Option(
            metavar="DATE", help="Which version the alias (champion) pointed at on this day, in UTC."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Tell the story of a model: pushes, moves of aliases, gates, releases, canaries, retirements, deletions."""
    from storage import model_life

    database = Settings.read().database()
    with database.errors("history"), database.connect(purpose="models") as connection:
        if on is not None:
            start, end = _day(on)
            moves = model_life.alias_moves(connection, name, alias or "champion")
            found = model_life.spans(moves, start, end)
            _show_day(name, alias or "champion", on, found, as_json=as_json)
            return
        story = _story(connection, name, alias)
    if as_json:
        console.print_json({"history": story})
    else:
        console.print_table(story)


def diff(
    old: Ref,
    new: Annotated[str | None, typer.Argument(metavar="[REF]", help="With this one.")] = None,
    as_json: Json = False,
) -> None:
    """Show what differs between two versions; with one reference, between the champion and that version."""
    from batchpred.model_diff import differences
    from storage import registry
    from storage.registry import ModelRef

    first = ModelRef.parse(old)
    pair = [first, ModelRef.parse(new)] if new else [ModelRef(first.name, alias="champion"), first]
    database = Settings.read().database()
    with database.errors("diff"), database.connect(purpose="models") as connection:
        left, right = (registry.resolve(connection, each) for each in pair)
    rows = differences(left, right)
    if as_json:
        console.print_json({"from": str(left), "to": str(right), "differences": rows})
        return
    if not rows:
        console.out.print(f"{left} and {right} are the same")
    console.print_table([{"": row["what"], str(left): row["from"], str(right): row["to"]} for row in rows])


def pull(
    ref: Ref,
    to: Annotated[Path | None, typer.Option(help="The file to write; NAME-N.onnx if left out.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    as_json: Json = False,
) -> None:
    """Write a version's file, verified by its digest."""
    from storage import registry
    from storage.errors import ConfigurationError

    settings = Settings.read()
    database = settings.database()
    with database.errors("pull"), database.connect(purpose="models") as connection:
        version = registry.resolve(connection, registry.ModelRef.parse(ref))
        data = registry.fetch(connection, version.sha256, settings.home / "models")
    target = to or Path(f"{version.name}-{version.version}.onnx")
    if target.exists() and not force and target.read_bytes() != data:
        raise ConfigurationError(f"{target} is there and is another file; name another one, or say --force")
    target.write_bytes(data)
    if as_json:
        console.print_json({"file": str(target), "model": str(version), "sha256": version.sha256})
    else:
        console.out.print(f"{version}  {version.sha256[:12]}  {len(data):,} bytes written to {target}")


def verify(
    gates: Annotated[
        Path | None,
        typer.Option(help="The file that says who signs; gates.yaml here if there is one.", exists=True),
    ] = None,
    as_json: Json = False,
) -> None:
    """Hash every stored model file anew, and check the signatures that gates.yaml asks for.

    Exit code 1 where a file is not what was pushed, a signature is not good, or one an alias points at has none.
    """
    from storage import model_life

    settings = Settings.read()
    database = settings.database()
    with database.errors("verify"), database.connect(purpose="verify") as connection:
        files = model_life.verify(connection)
        bad = [file for file in files if file.status != "ok"]
        signatures = gating.check_signatures(settings, connection, gates, {file.sha256 for file in bad})
    refused = [each for each in signatures if each["status"] == "refused"]
    if as_json:
        console.print_json({"files": [vars(file) for file in files], "signatures": signatures})
    else:
        for file in bad:
            console.print_error(
                f"model file {file.sha256[:12]} ({', '.join(file.versions)}) is {file.status}; no run will use it: "
                "push the file again under a new version, or restore the database"
            )
        for each in refused:
            console.print_error(each["said"])
        console.out.print(f"{len(files)} file(s) verified, {len(bad)} not as pushed")
        if signatures:
            unsigned = sum(each["status"] == "unsigned" for each in signatures)
            console.out.print(
                f"{len(signatures)} version(s) must be signed: {len(refused)} refused, {unsigned} unsigned, unused"
            )
    raise typer.Exit(1 if bad or refused else 0)


def delete(ref: Annotated[str, typer.Argument(metavar="REF", help="NAME/N")], as_json: Json = False) -> None:
    """Delete a version's file; never one that an alias or a run with predictions needs. Its history stays."""
    from storage import model_life
    from storage.registry import ModelRef

    database = Settings.read().database()
    with database.errors("delete"), database.connect(purpose="delete", as_writer=True) as connection:
        version = model_life.delete(connection, ModelRef.parse(ref))
    if as_json:
        console.print_json({"deleted": str(version), "sha256": version.sha256})
    else:
        console.out.print(f"{version} is deleted; its number is not given again")


def _say(move: AliasMove, seconds: float, *, as_json: bool) -> None:
    if as_json:
        console.print_json({**vars(move), "milliseconds": round(seconds * 1000, 1)})
        return
    alias = f"{move.name}@{move.alias}"
    if not move.moved:
        console.out.print(f"{alias} points at {move.name}/{move.to_version} already")
        return
    was = f"{move.name}/{move.from_version}" if move.from_version else "nothing"
    console.out.print(
        f"{alias} pointed at {was} and points at {move.name}/{move.to_version} ({seconds * 1000:.0f} ms)"
    )


def _story(connection: Any, name: str, alias: str | None) -> list[dict[str, Any]]:
    from storage import model_life, registry

    rows: list[dict[str, Any]] = []
    for move in model_life.alias_moves(connection, name, alias):
        was = f" (was {name}/{move['from_version']})" if move["from_version"] else ""
        what = f"{name}@{move['alias']} → {name}/{move['to_version']}{was}"
        rows.append(_line(move["moved_at"], move["kind"], what, move["why"], move["moved_by"]))
    if alias is None:
        for each in registry.versions(connection, name):
            by = f"{each.created_by} ({each.pushed_from})" if each.pushed_from else each.created_by
            rows.append(_line(each.created_at, "pushed", str(each), f"from {each.source}", by))
        for event in model_life.events(connection, name):
            what = f"{name}/{event['version']}" if event["version"] else name
            said = "; ".join(
                f"{key}: {_listed(value)}" for key, value in event["details"].items() if key != "signature"
            )
            rows.append(_line(event["happened_at"], event["kind"], what, said, event["done_by"]))
    # A push and the alias it moves are of one moment: the push comes first.
    return sorted(rows, key=lambda row: (row["at"], row["event"] != "pushed"))


def _listed(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_listed(each)}" for name, each in value.items()) or "none"
    return ", ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)


def _line(at: datetime, event: str, what: str, why: str | None, by: str) -> dict[str, Any]:
    return {"at": at, "event": event, "what": what, "why": why or "", "by": by}


def _show_day(name: str, alias: str, on: str, found: list[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        console.print_json({"name": name, "alias": alias, "on": on, "versions": found})
        return
    if not found:
        console.out.print(f"{name}@{alias} did not exist on {on}")
    for each in found:
        until = f"until {each['until']:%Y-%m-%d %H:%M:%S}" if each["until"] else "until now"
        console.out.print(
            f"{name}@{alias} on {on}: {name}/{each['version']}, since {each['since']:%Y-%m-%d %H:%M:%S} UTC {until}"
        )


def _day(text: str) -> tuple[datetime, datetime]:
    from storage.errors import ConfigurationError

    try:
        start = datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError:
        raise ConfigurationError(f"--on {text!r} is no date; write it as 2026-03-03") from None
    return start, start + timedelta(days=1)
