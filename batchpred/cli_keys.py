"""`batchpred keys`: who may read over HTTP."""

from __future__ import annotations

import re
import sys
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from batchpred import console
from batchpred.cli_options import Json
from batchpred.settings import Settings
from storage.errors import ConfigurationError

app = typer.Typer(
    no_args_is_help=True, help="Keys of the read API: create, list, revoke.", rich_markup_mode=None
)


_SPANS = {"h": timedelta(hours=1), "d": timedelta(days=1)}


@app.command()
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Who reads with it.")],
    job: Annotated[
        list[str] | None, typer.Option(metavar="JOB", help="A job it opens; again for more. All if left out.")
    ] = None,
    expires: Annotated[
        str | None,
        typer.Option(
            metavar="90d", help="How long it is valid, in hours (h) or days (d); for ever if left out."
        ),
    ] = None,
    rate: Annotated[
        int | None,
        typer.Option(min=1, max=1_000_000, help="Requests a second at most, for each server process."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Make a key and print it on stdout, this once: only its digest is kept."""
    from storage import api_keys

    until = _until(expires)
    database = Settings.read().database()
    with database.errors("make a key"), database.connect(purpose="keys") as connection:
        token = api_keys.create(connection, name, jobs=job or [], requests_per_second=rate, expires_at=until)
    if as_json:
        console.print_json({"key": token, "key_id": api_keys.key_id_of(token.encode()), "name": name})
        return
    sys.stdout.write(token + "\n")
    console.err.print(
        "keep it now, it is not shown again; readers send it as Authorization: Bearer KEY",
        markup=False,
        soft_wrap=True,
    )


@app.command(name="list")
def list_keys(as_json: Json = False) -> None:
    """List the keys, without what one could read with."""
    from storage import api_keys

    database = Settings.read().database()
    with database.errors("list keys"), database.connect(purpose="keys") as connection:
        rows = api_keys.all_keys(connection)
    if as_json:
        console.print_json({"keys": rows})
        return
    shown = ("key_id", "name", "status", "created_at", "expires_at")
    console.print_table(
        [{**{each: row[each] for each in shown}, "jobs": ", ".join(row["jobs"] or ["all"])} for row in rows]
    )


@app.command()
def revoke(key_id: Annotated[str, typer.Argument(metavar="KEY_ID", help="As `keys list` shows it.")]) -> None:
    """Close a key; servers refuse it from two seconds later on."""
    from storage import api_keys

    database = Settings.read().database()
    with database.errors("revoke a key"), database.connect(purpose="keys") as connection:
        api_keys.revoke(connection, key_id)
    console.out.print(f"revoked {key_id}", markup=False)


def _until(span: str | None) -> datetime | None:
    if span is None:
        return None
    found = re.fullmatch(r"([1-9][0-9]{0,4})([hd])", span)
    if found is None:
        raise ConfigurationError(f"--expires {span!r} is no span; it reads 12h or 90d")
    return datetime.now(UTC) + int(found.group(1)) * _SPANS[found.group(2)]
