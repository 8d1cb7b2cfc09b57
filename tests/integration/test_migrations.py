"""The migrations against the declared schema, and against each other."""

import threading
from datetime import UTC, datetime

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine

from storage.database import Database
from storage.schema import metadata
from storage.upgrade import SchemaOutdatedError, require_current_schema, schema_status, upgrade


def test_an_upgraded_database_is_the_declared_schema(database):
    """All migrations applied give the declared tables, columns, defaults, keys and indexes, and no others."""
    engine = create_engine(
        "postgresql+psycopg://",
        creator=lambda: psycopg.connect(database.url, options="-c search_path=public"),
    )
    with engine.connect() as connection:
        context = MigrationContext.configure(
            connection,
            opts={
                "version_table_schema": "batchpred",
                "include_schemas": True,
                "include_name": lambda name, kind, _: kind != "schema" or name == "batchpred",
                "compare_server_default": True,
            },
        )
        difference = compare_metadata(context, metadata)
    engine.dispose()
    assert [] == difference


def test_upgrading_twice_changes_nothing(database):
    """An upgrade of a current database leaves it current, with its data."""
    with database.connect(purpose="test") as connection:
        connection.execute(
            "INSERT INTO batchpred.definitions (sha256, job, definition) VALUES ('x', 'j', '{}')"
        )
    status = upgrade(database)
    assert status.is_current
    with database.connect(purpose="test") as connection:
        assert [{"job": "j"}] == connection.execute("SELECT job FROM batchpred.definitions").fetchall()


def test_racing_upgrades_all_succeed(empty_database):
    """Six upgrades of an empty database at once: one does the work, all end well."""
    results, faults = [], []

    def one():
        try:
            results.append(upgrade(empty_database).is_current)
        except Exception as error:
            faults.append(error)

    threads = [threading.Thread(target=one) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [] == faults
    assert [True] * 6 == results


def test_an_empty_database_is_said_to_have_no_schema(empty_database):
    """Before the first upgrade the message names the command that mends it."""
    with empty_database.connect(purpose="test") as connection:
        assert schema_status(connection).current is None
        with pytest.raises(SchemaOutdatedError, match=r"has no batchpred schema yet.*batchpred db upgrade"):
            require_current_schema(connection, empty_database.place)


def test_a_newer_database_is_refused(database):
    """A schema that a later batchpred made is not touched by this one."""
    with database.connect(purpose="test") as connection:
        connection.execute("UPDATE batchpred.alembic_version SET version_num = '9999'")
        with pytest.raises(SchemaOutdatedError, match="newer than"):
            require_current_schema(connection, database.place)


def test_roles_read_and_write_only_what_they_are_for(database):
    """Analyst and API see schema predictions and cannot write; the API does not see the ledger."""
    wrong = []
    for role in ("batchpred_api", "batchpred_analyst"):
        with database.connect(purpose="test") as connection:
            connection.execute(f"SET ROLE {role}")
            connection.execute("SELECT * FROM predictions._freshness")
            for statement in (
                "SELECT * FROM batchpred.runs",
                "SELECT * FROM batchpred.model_pieces",
                "DELETE FROM batchpred.published",
                "CREATE TABLE predictions.mine (a int)",
                "CREATE TABLE batchpred_data.mine (a int)",
            ):
                try:
                    connection.execute(statement)
                    wrong.append((role, statement))
                except psycopg.errors.InsufficientPrivilege:
                    pass
    assert [] == wrong


def test_a_user_who_may_not_upgrade_is_told_so(empty_database, server_url):
    """Without the right to create schemas the upgrade says who must run it, and changes nothing."""
    name = f"weak_{datetime.now(UTC).timestamp():.0f}"
    with empty_database.connect(purpose="test") as connection:
        connection.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'weak'")
    try:
        parts = psycopg.conninfo.conninfo_to_dict(empty_database.url)
        weak = Database.at(f"postgresql://{name}:weak@{parts['host']}:{parts['port']}/{parts['dbname']}")
        with pytest.raises(Exception, match="run batchpred db upgrade as the database's owner"):
            upgrade(weak)
    finally:
        with empty_database.connect(purpose="test") as connection:
            connection.execute(f"DROP ROLE {name}")
