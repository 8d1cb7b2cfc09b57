"""How the database's schema is brought up to date, and how far it is."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg

from storage.errors import StorageError
from storage.queries import load

if TYPE_CHECKING:
    from storage.database import Connection, Database

_MIGRATIONS = Path(__file__).resolve().parent.parent / "migrations"
# One upgrade at a time: of six racing ones without it, one failed.
_UPGRADE_LOCK = 0x6261_7463  # "batc"


class SchemaOutdatedError(StorageError):
    """The database has no batchpred schema yet, or an older or newer one than this version needs."""


class UpgradeError(StorageError):
    """The schema could not be changed; it is as it was."""


@dataclass(frozen=True)
class SchemaStatus:
    """The revision the database has (None: no schema yet) and the one this version of batchpred needs."""

    current: str | None
    needed: str

    @property
    def is_current(self) -> bool:
        """Whether this version of batchpred can work on the database."""
        return self.current == self.needed


def schema_status(connection: Connection) -> SchemaStatus:
    """Compare the database's revision with the newest file in migrations/versions (no Alembic needed)."""
    needed = max(path.stem.split("_")[0] for path in (_MIGRATIONS / "versions").glob("[0-9]*.py"))
    found = connection.execute(load("database")["has_schema"]).fetchone()
    row = (
        connection.execute(load("database")["schema_version"]).fetchone()
        if found and found["found"]
        else None
    )
    return SchemaStatus(row["version_num"] if row else None, needed)


def require_current_schema(connection: Connection, place: str) -> None:
    """Raise SchemaOutdatedError unless the database is at the revision this version needs."""
    status = schema_status(connection)
    if status.is_current:
        return
    if status.current is not None and status.current > status.needed:
        raise SchemaOutdatedError(
            f"{place} has schema revision {status.current}, newer than {status.needed}, which this batchpred "
            "knows; install the newer batchpred"
        )
    has = f"schema revision {status.current}" if status.current else "no batchpred schema yet"
    raise SchemaOutdatedError(f"{place} has {has}; bring it to {status.needed} with: batchpred db upgrade")


def upgrade(database: Database) -> SchemaStatus:
    """Bring the schema to the newest revision and the roles' grants with it; safe to run several at once.

    Everything happens in one transaction under an advisory lock: it is all there, or nothing changed.
    Raises UpgradeError where this user may not.
    """
    from alembic import command
    from alembic.config import Config
    from sqlalchemy import NullPool, create_engine
    from sqlalchemy.exc import DBAPIError

    database.connect(purpose="upgrade").close()  # the same clear error as everywhere when it is unreachable
    config = Config()
    # Found beside this package: "package:folder" fails where the install is editable.
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    # Nothing prepared: behind a pooler it would stay in a session that is somebody else's afterwards.
    creator = partial(psycopg.connect, database.url, prepare_threshold=None)
    engine = create_engine("postgresql+psycopg://", creator=creator, poolclass=NullPool)
    try:
        with engine.begin() as connection:
            # The driver's own execute where the text is plain SQL: SQLAlchemy would look for parameters in it.
            driver = connection.connection.driver_connection
            assert isinstance(driver, psycopg.Connection)  # noqa: S101  # what the creator above returns
            driver.execute("SELECT pg_advisory_xact_lock(%s)", [_UPGRADE_LOCK])
            driver.execute("CREATE SCHEMA IF NOT EXISTS batchpred")
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
            driver.execute(grants_sql().encode())
    except (psycopg.Error, DBAPIError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UpgradeError(
            f"the schema of {database.place} was not upgraded, nothing changed: {reason}; "
            "run batchpred db upgrade as the database's owner"
        ) from error
    with database.connect(purpose="upgrade") as plain:
        return schema_status(plain)


def grants_sql() -> str:
    """Return the statements that make the three roles and give each what it needs, for people to read and run."""
    return (Path(__file__).parent / "sql" / "grants.sql").read_text(encoding="utf-8")
