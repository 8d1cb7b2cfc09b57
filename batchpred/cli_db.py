"""`batchpred db`: the database's server, address, schema and rights."""

from __future__ import annotations

import sys

import typer

from batchpred import console
from batchpred.cli_options import Json
from batchpred.settings import Settings
from storage.errors import ConfigurationError

app = typer.Typer(
    no_args_is_help=True, help="The database: server, address, schema, rights.", rich_markup_mode=None
)


@app.command()
def start() -> None:
    """Start the embedded PostgreSQL and keep it up until `db stop`."""
    from storage import embedded

    server = embedded.start(_embedded_settings("start").home)
    console.out.print(
        f"PostgreSQL {server.version} is up on port {server.port}, data in {server.data_directory}"
    )


@app.command()
def stop() -> None:
    """Stop the embedded PostgreSQL."""
    from storage import embedded

    stopped = embedded.stop(_embedded_settings("stop").home)
    console.out.print("stopped" if stopped else "it was not running")


@app.command()
def url() -> None:
    """Print the database's address, password included: psql "$(batchpred db url)"."""
    sys.stdout.write(Settings.read().database().url + "\n")


@app.command()
def upgrade() -> None:
    """Bring the schema, the roles and their rights to what this version needs."""
    from storage import upgrade as schema

    database = Settings.read().unchecked_database()
    status = schema.upgrade(database)
    console.out.print(f"{database.place} is at schema revision {status.current}")


@app.command()
def status(
    as_json: Json = False,
) -> None:
    """Say which database this is, whether it answers and how its schema stands."""
    from storage import embedded
    from storage.upgrade import schema_status

    settings = Settings.read()
    if settings.database_url is None and embedded.status(settings.home) is None:
        facts = {"database": f"embedded, in {settings.home}", "running": False}
    else:
        database = settings.unchecked_database()
        with database.connect(purpose="status") as connection:
            schema = schema_status(connection)
        facts = {
            "database": database.place,
            "running": True,
            "embedded": settings.database_url is None,
            "schema": schema.current,
            "schema_needed": schema.needed,
        }
    if as_json:
        console.print_json(facts)
    else:
        console.print_table([{"": name, " ": str(value)} for name, value in facts.items()])


@app.command()
def grants() -> None:
    """Print the SQL that makes the three roles and gives each what it needs, for a database's owner to run."""
    from storage.upgrade import grants_sql

    sys.stdout.write(grants_sql())


def _embedded_settings(what: str) -> Settings:
    settings = Settings.read()
    if settings.database_url is not None:
        raise ConfigurationError(
            f"BATCHPRED_DATABASE_URL is set, so there is no embedded server to {what}; unset it, or {what} "
            "that PostgreSQL by its own means"
        )
    return settings
