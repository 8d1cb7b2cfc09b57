"""How a revision runs the SQL file that stands beside it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from alembic import op

if TYPE_CHECKING:
    from collections.abc import Callable


def upgrade_with(revision_file: str) -> Callable[[], None]:
    """Return an `upgrade` that runs the .sql file of the same name, statement for statement as written.

    There is no downgrade: a published prediction is never unwritten by a schema change, and a mistake is
    mended by the next revision.
    """
    statements = Path(revision_file).with_suffix(".sql").read_text(encoding="utf-8")

    def upgrade() -> None:
        # The driver's own execute: SQLAlchemy's would look for parameters in the text.
        op.get_bind().connection.driver_connection.execute(statements.encode())  # type: ignore[union-attr]

    return upgrade
