"""What is kept of how runs were scored: batch sizes by model and machine, and each run's own account."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from psycopg.types.json import Jsonb

from storage.queries import load

if TYPE_CHECKING:
    from storage.database import Connection, Row

_SQL = load("scoring")


def batch_size(connection: Connection, model_sha256: str, provider: str, machine: str) -> Row | None:
    """Return what was measured of a model here: batch_rows, rows_per_second, measured_at; or None."""
    values = {"model_sha256": model_sha256, "provider": provider, "machine": machine}
    return connection.execute(_SQL["batch_size"], values).fetchone()


def remember_batch_size(
    connection: Connection,
    model_sha256: str,
    provider: str,
    machine: str,
    *,
    batch_rows: int,
    threads: int,
    rows_per_second: float,
) -> None:
    """Keep a measured batch size; a newer measurement replaces an older one."""
    values = {
        "model_sha256": model_sha256,
        "provider": provider,
        "machine": machine,
        "batch_rows": batch_rows,
        "threads": threads,
        "rows_per_second": rows_per_second,
    }
    connection.execute(_SQL["remember_batch_size"], values)


def note(connection: Connection, run_id: int, scoring: dict[str, Any]) -> None:
    """Write down how a run was scored; call it in a transaction that ends with a look at the fence."""
    connection.execute(_SQL["note"], {"run_id": run_id, "scoring": Jsonb(scoring)})
